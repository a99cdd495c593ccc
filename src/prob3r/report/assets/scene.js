/* What stands in a 3D view: clouds of points, arrows, and cameras with their photographs. */

/** A cloud of points at one or more steps, of which two neighbours can be mixed. */
class Cloud {
  /**
   * @param viewer The view it stands in.
   * @param halves Half floats, x y z of every point, step after step.
   * @param look `{colours, confidence, focal, stride}`: bytes of red, green and blue; half floats,
   *   or nothing; pixels of focal length; pixels between points.
   */
  constructor(viewer, halves, { colours, confidence, focal, stride }) {
    const { gl } = viewer;
    this.count = colours.length / 3;
    this.footprint = stride / focal;
    Object.assign(this, {
      visible: true, step: 0, size: 1.2, camera: [0, 0, 0], flat: [0, 0, 0], flatness: 0,
      byConfidence: false, range: [0, 1], least: 0, opacity: 1,
    });
    this.buffers = [halves, colours, confidence].map((array) => {
      if (!array) return null;
      const buffer = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ARRAY_BUFFER, array, gl.STATIC_DRAW);
      return buffer;
    });
  }

  draw(viewer) {
    const { gl, programs: { points } } = viewer;
    const { attributes, uniforms } = points;
    const [places, colours, confidence] = this.buffers;
    const low = Math.floor(this.step);
    const bytesOfStep = 6 * this.count;
    viewer.use(points);
    gl.bindBuffer(gl.ARRAY_BUFFER, places);
    for (const [name, step] of [["before", low], ["after", Math.ceil(this.step)]]) {
      gl.enableVertexAttribArray(attributes[name]);
      gl.vertexAttribPointer(attributes[name], 3, gl.HALF_FLOAT, false, 6, step * bytesOfStep);
    }
    gl.bindBuffer(gl.ARRAY_BUFFER, colours);
    gl.enableVertexAttribArray(attributes.colour);
    gl.vertexAttribPointer(attributes.colour, 3, gl.UNSIGNED_BYTE, true, 3, 0);
    if (confidence) {
      gl.bindBuffer(gl.ARRAY_BUFFER, confidence);
      gl.enableVertexAttribArray(attributes.confidence);
      gl.vertexAttribPointer(attributes.confidence, 1, gl.HALF_FLOAT, false, 2, 0);
    } else gl.vertexAttrib1f(attributes.confidence, 1);
    gl.uniform1f(uniforms.t, this.step - low);
    gl.uniform1f(uniforms.size, this.size * this.footprint);
    gl.uniform1f(uniforms.height, viewer.canvas.height);
    gl.uniform1f(uniforms.least, this.least);
    gl.uniform1f(uniforms.opacity, this.opacity);
    gl.uniform1f(uniforms.flatness, this.flatness);
    gl.uniform1i(uniforms.by_confidence, this.byConfidence);
    gl.uniform3fv(uniforms.camera, this.camera);
    gl.uniform3fv(uniforms.flat_colour, this.flat);
    gl.uniform2fv(uniforms.range, this.range);
    gl.uniform3fv(uniforms.ramp, CONFIDENCE_RAMP.flat());
    const clear = this.opacity < 1;
    if (clear) gl.enable(gl.BLEND);
    gl.depthMask(!clear);
    gl.drawArrays(gl.POINTS, 0, this.count);
    gl.depthMask(true);
    gl.disable(gl.BLEND);
    for (const name of ["before", "after", "colour", "confidence"]) gl.disableVertexAttribArray(attributes[name]);
  }
}

/** Arrows from where points were one step before to where they are, over all else in the view. */
class Arrows {
  /**
   * @param viewer The view it stands in.
   * @param halves Half floats, x y z of every point, step after step.
   * @param count How many points there are at each step.
   */
  constructor(viewer, halves, count) {
    const { gl } = viewer;
    const [shaft, tip] = [[0, -1, 0, 1, 1, -1, 1, -1, 0, 1, 1, 1], [2, -1, 2, 1, 3, 0]];
    Object.assign(this, { visible: false, step: 1, colour: [0, 0, 0], count });
    this.buffers = [halves, new Float32Array([...shaft, ...tip])].map((array) => {
      const buffer = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ARRAY_BUFFER, array, gl.STATIC_DRAW);
      return buffer;
    });
  }

  draw(viewer) {
    const { gl, programs: { arrows } } = viewer;
    const { attributes, uniforms } = arrows;
    const [places, corners] = this.buffers;
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    viewer.use(arrows);
    gl.bindBuffer(gl.ARRAY_BUFFER, corners);
    gl.enableVertexAttribArray(attributes.corner);
    gl.vertexAttribPointer(attributes.corner, 2, gl.FLOAT, false, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, places);
    const ends = [attributes.start, attributes.end];
    ends.forEach((end, i) => {
      gl.enableVertexAttribArray(end);
      gl.vertexAttribPointer(end, 3, gl.HALF_FLOAT, false, 6, 6 * this.count * (this.step - 1 + i));
      gl.vertexAttribDivisor(end, 1);
    });
    gl.uniform2f(uniforms.screen, viewer.canvas.width, viewer.canvas.height);
    gl.uniform1f(uniforms.width, 2 * scale);
    gl.disable(gl.DEPTH_TEST);
    for (const [border, paint] of [[0.8 * scale, [1, 1, 1]], [0, this.colour]]) {
      gl.uniform1f(uniforms.border, border);
      gl.uniform4f(uniforms.paint, ...paint, 1);
      gl.drawArraysInstanced(gl.TRIANGLES, 0, 9, this.count);
    }
    gl.enable(gl.DEPTH_TEST);
    for (const end of ends) { // other programs use the same places, for every corner anew
      gl.vertexAttribDivisor(end, 0);
      gl.disableVertexAttribArray(end);
    }
  }
}

/** A camera as a pyramid with its photograph in the base. */
class Camera {
  /**
   * @param viewer The view it stands in.
   * @param view The photograph, `{width, height, pixels}`.
   * @param focal Pixels of focal length in x and y.
   * @param look `{colour, depth, width}`: of the lines, how deep the pyramid is, how thick a line.
   */
  constructor(viewer, view, focal, { colour, depth = 0.17, width = 2, picture = true }) {
    const { gl } = viewer;
    const [x, y] = [view.width / 2 / focal[0] * depth, view.height / 2 / focal[1] * depth];
    this.local = [[0, 0, 0], [-x, -y, depth], [x, -y, depth], [x, y, depth], [-x, y, depth]];
    Object.assign(this, { visible: true, colour: [...rgb(colour), 1], width, places: gl.createBuffer() });
    this.place(STILL);
    if (!picture) return;
    this.texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, view.pixels.canvas);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
  }

  /** Stand between two poses, each four rows. */
  place(before, after = before, t = 0) {
    this.corners = this.local.map((p) => V.mix(moved(before, p), moved(after, p), t));
  }

  draw(viewer) {
    const { gl, programs: { lines, picture } } = viewer;
    const [tip, a, b, c, d] = this.corners;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.places);
    if (this.texture) {
      const quad = [[a, 0, 0], [b, 1, 0], [d, 0, 1], [c, 1, 1]].flatMap(([p, u, v]) => [...p, u, v]);
      gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(quad), gl.DYNAMIC_DRAW);
      viewer.use(picture);
      this.point(gl, picture.attributes, [["place", 3], ["texel", 2]]);
      gl.bindTexture(gl.TEXTURE_2D, this.texture);
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    }
    const edges = [[tip, a], [tip, b], [tip, c], [tip, d], [a, b], [b, c], [c, d], [d, a]];
    const shape = edges.flatMap(([from, to]) =>
      [[0, -1], [0, 1], [1, -1], [1, -1], [0, 1], [1, 1]].flatMap((corner) => [...from, ...to, ...corner]));
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(shape), gl.DYNAMIC_DRAW);
    viewer.use(lines);
    this.point(gl, lines.attributes, [["start", 3], ["end", 3], ["corner", 2]]);
    gl.uniform2f(lines.uniforms.screen, viewer.canvas.width, viewer.canvas.height);
    gl.uniform1f(lines.uniforms.width, this.width * Math.min(window.devicePixelRatio || 1, 2));
    gl.uniform4fv(lines.uniforms.paint, this.colour);
    gl.drawArrays(gl.TRIANGLES, 0, 6 * edges.length);
  }

  point(gl, attributes, layout) {
    const stride = 4 * layout.reduce((sum, [, size]) => sum + size, 0);
    let offset = 0;
    for (const [name, size] of layout) {
      gl.enableVertexAttribArray(attributes[name]);
      gl.vertexAttribPointer(attributes[name], size, gl.FLOAT, false, stride, offset);
      offset += 4 * size;
    }
  }
}

/** Bytes of red, green and blue of every `stride`-th pixel of every `stride`-th row. */
function colours(view, stride) {
  const out = [];
  for (let y = 0; y < view.height; y += stride)
    for (let x = 0; x < view.width; x += stride) {
      const at = 4 * (y * view.width + x);
      out.push(...view.pixels.data.subarray(at, at + 3));
    }
  return new Uint8Array(out);
}

/** Say in a canvas's place that there is no 3D here. */
function without3D(canvas) {
  canvas.replaceWith(element("p", { className: "notice", textContent: "This browser cannot show 3D (it has no WebGL 2). Everything else on this page works." }));
}
