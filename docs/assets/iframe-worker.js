// Browsers start no worker of a page that is opened from its file, and the site's search is one.
// A hidden frame stands in: the worker's script runs there, and messages go both ways.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      const inside = this.frame.contentWindow
      this.ready = new Promise((resolve, reject) => {
        const load = address =>
          new Promise((loaded, failed) => {
            const script = inside.document.createElement("script")
            script.src = address
            script.onload = loaded
            script.onerror = () => failed(new Error(`${address} was not loaded`))
            inside.document.body.appendChild(script)
          })
        inside.importScripts = (...addresses) =>
          addresses.reduce((before, next) => before.then(() => load(next)), Promise.resolve())
        inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
        load(url).then(resolve, reject)
      })
    }

    postMessage(data) {
      const inside = this.frame.contentWindow
      this.ready.then(() => inside.dispatchEvent(new inside.MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
