"""The cheapest set of sites that keeps a PSNR."""
