/* A 3D view on one canvas: an orbiting eye, and things that draw themselves. */

class Viewer {
  /**
   * @param canvas Where to draw; it may take the focus.
   * @param home `{target, radius}`: what to look at first, and how far it reaches.
   */
  constructor(canvas, home) {
    this.canvas = canvas;
    this.home = home;
    this.things = [];
    this.gl = canvas.getContext("webgl2", { alpha: false, antialias: true, preserveDrawingBuffer: true });
    if (!this.gl) throw new Error("no WebGL 2");
    const gl = this.gl;
    this.programs = {
      points: new Program(gl, POINTS_VERTEX, POINTS_FRAGMENT),
      lines: new Program(gl, LINES_VERTEX, FLAT_FRAGMENT),
      arrows: new Program(gl, ARROWS_VERTEX, FLAT_FRAGMENT),
      picture: new Program(gl, PICTURE_VERTEX, PICTURE_FRAGMENT),
    };
    gl.enable(gl.DEPTH_TEST);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.reset();
  }

  add(thing) {
    this.things.push(thing);
    this.request();
    return thing;
  }

  /** Back to where the view began: behind camera 1 and a little above it. */
  reset() {
    this.target = [...this.home.target];
    const aspect = this.canvas.clientWidth / Math.max(this.canvas.clientHeight, 1);
    this.distance = 1.95 * this.home.radius * clamp(1.15 / (aspect || 1), 1, 2);
    this.yaw = 0.45;
    this.pitch = 0.4;
    this.request();
  }

  resize() {
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.round(this.canvas.clientWidth * scale);
    const height = Math.round(this.canvas.clientHeight * scale);
    if (width === this.canvas.width && height === this.canvas.height) return;
    [this.canvas.width, this.canvas.height] = [width, height];
    this.request();
  }

  /** Draw with the next frame, once, however often it is asked for. */
  request() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
    });
  }

  /** Unit vectors from the target to the eye, to its right, and above it; y points down. */
  axes() {
    const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    const back = [-sy * cp, -sp, -cy * cp];
    const right = [cy, 0, -sy];
    return { back, right, above: V.cross(back, right) };
  }

  draw() {
    const { gl, canvas } = this;
    const { back } = this.axes();
    const eye = V.add(this.target, V.scale(back, this.distance));
    const range = this.distance + 4 * this.home.radius;
    this.worldToEye = M.look(eye, this.target, [0, -1, 0]);
    this.projection = M.perspective(0.8, canvas.width / canvas.height, range / 2000, range * 3);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0.957, 0.965, 0.973, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    for (const thing of this.things) if (thing.visible) thing.draw(this);
  }

  /** Make a program current, with the eye's matrices in place. */
  use(program) {
    this.gl.useProgram(program.handle);
    this.gl.uniformMatrix4fv(program.uniforms.world_to_eye, false, this.worldToEye);
    this.gl.uniformMatrix4fv(program.uniforms.projection, false, this.projection);
  }

  turn(dx, dy) {
    this.yaw += 0.008 * dx;
    this.pitch = clamp(this.pitch + 0.008 * dy, -1.5, 1.5);
    this.request();
  }

  move(dx, dy) {
    const { right, above } = this.axes();
    const step = (0.85 * this.distance) / this.canvas.clientHeight;
    this.target = V.add(this.target, V.add(V.scale(right, -dx * step), V.scale(above, dy * step)));
    this.request();
  }

  zoom(factor) {
    this.distance = clamp(this.distance * factor, 0.02 * this.home.radius, 20 * this.home.radius);
    this.request();
  }

  listen() {
    const { canvas } = this;
    const down = new Map();
    const spread = () => {
      const [a, b] = [...down.values()];
      return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      down.set(event.pointerId, { x: event.clientX, y: event.clientY });
    });
    canvas.addEventListener("pointermove", (event) => {
      const last = down.get(event.pointerId);
      if (!last || down.size > 2) return;
      const before = down.size === 2 ? spread() : last;
      down.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (down.size === 2) {
        const now = spread();
        this.zoom(before.apart / now.apart);
        this.move(now.x - before.x, now.y - before.y);
      } else if (event.buttons !== 1 || event.shiftKey) this.move(event.clientX - last.x, event.clientY - last.y);
      else this.turn(event.clientX - last.x, event.clientY - last.y);
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => down.delete(event.pointerId));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      // Only once it was clicked, so that scrolling the page does not end here.
      if (document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      this.zoom(Math.exp(clamp(event.deltaY, -100, 100) * 0.0015));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (x || y) event.shiftKey ? this.move(-20 * x, -20 * y) : this.turn(12 * x, 12 * y);
    else if (event.key === "+" || event.key === "=") this.zoom(1 / 1.15);
    else if (event.key === "-") this.zoom(1.15);
    else if (event.key === "0") this.reset();
    else return;
    event.preventDefault();
  }
}
