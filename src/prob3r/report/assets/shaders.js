/* What runs on the graphics card: points, lines, arrows, and the photographs in the cameras. */

const POINTS_VERTEX = `#version 300 es
in vec3 before; in vec3 after; in vec3 colour; in float confidence;
uniform mat4 world_to_eye, projection;
uniform float t, size, height, least;
uniform vec3 camera, flat_colour;
uniform vec2 range;
uniform float flatness;
uniform bool by_confidence;
uniform vec3 ramp[5];
out vec3 shown;
void main() {
  vec3 point = mix(before, after, t);
  gl_Position = projection * world_to_eye * vec4(point, 1.0);
  if (confidence < least || any(greaterThan(abs(point), vec3(6e4)))) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  // As large as a pixel's footprint there, so that a cloud is closed as its own camera sees it.
  float footprint = size * distance(point, camera);
  gl_PointSize = clamp(footprint * projection[1][1] * 0.5 * height / gl_Position.w, 1.0, 48.0);
  float grey = dot(colour, vec3(0.3, 0.6, 0.1));
  shown = mix(colour, flat_colour * (0.55 + 0.6 * grey), flatness);
  if (by_confidence) {
    float level = clamp((log(confidence) - range.x) / max(range.y - range.x, 1e-6), 0.0, 1.0) * 4.0;
    int low = min(int(level), 3);
    shown = mix(ramp[low], ramp[low + 1], level - float(low));
  }
}`;

const POINTS_FRAGMENT = `#version 300 es
precision mediump float;
in vec3 shown;
uniform float opacity;
out vec4 result;
void main() {
  vec2 offset = gl_PointCoord - 0.5;
  if (dot(offset, offset) > 0.25) discard;
  result = vec4(shown, opacity);
}`;

const LINES_VERTEX = `#version 300 es
in vec3 start; in vec3 end; in vec2 corner;
uniform mat4 world_to_eye, projection;
uniform vec2 screen;
uniform float width;
void main() {
  vec4 a = projection * world_to_eye * vec4(start, 1.0);
  vec4 b = projection * world_to_eye * vec4(end, 1.0);
  float near = 0.02;
  if (a.w < near && b.w < near) { gl_Position = vec4(2.0, 2.0, 2.0, 1.0); return; }
  if (a.w < near) a = mix(a, b, (near - a.w) / (b.w - a.w));
  if (b.w < near) b = mix(b, a, (near - b.w) / (a.w - b.w));
  vec2 along = normalize((b.xy / b.w - a.xy / a.w) * screen + vec2(1e-6, 0.0));
  vec4 at = corner.x < 0.5 ? a : b;
  at.xy += vec2(-along.y, along.x) * corner.y * width / screen * at.w;
  gl_Position = at;
}`;

const ARROWS_VERTEX = `#version 300 es
in vec3 start; in vec3 end; in vec2 corner;
uniform mat4 world_to_eye, projection;
uniform vec2 screen;
uniform float width, border;
void main() {
  vec4 a = projection * world_to_eye * vec4(start, 1.0);
  vec4 b = projection * world_to_eye * vec4(end, 1.0);
  bool nowhere = any(greaterThan(max(abs(start), abs(end)), vec3(6e4)));
  if (nowhere || min(a.w, b.w) < 0.02) { gl_Position = vec4(2.0, 2.0, 2.0, 1.0); return; }
  vec2 tail = a.xy / a.w * 0.5 * screen, tip = b.xy / b.w * 0.5 * screen;
  float span = distance(tail, tip);
  vec2 along = span > 1e-3 ? (tip - tail) / span : vec2(1.0, 0.0);
  float head = min(5.0 * width, 0.7 * span);
  // The corner says where along the arrow (tail, neck, wing, tip) and on which side.
  float place = corner.x < 0.5 ? -0.5 * width - border
    : corner.x < 1.5 ? span - head
    : corner.x < 2.5 ? span - head - border : span + 2.0 * border;
  float aside = corner.x < 1.5 ? 0.5 * width + border : 0.45 * head + 1.5 * border;
  vec2 at = tail + along * place + vec2(-along.y, along.x) * corner.y * aside;
  gl_Position = vec4(at / (0.5 * screen), 0.0, 1.0);
}`;

const FLAT_FRAGMENT = `#version 300 es
precision mediump float;
uniform vec4 paint;
out vec4 result;
void main() { result = paint; }`;

const PICTURE_VERTEX = `#version 300 es
in vec3 place; in vec2 texel;
uniform mat4 world_to_eye, projection;
out vec2 at;
void main() { at = texel; gl_Position = projection * world_to_eye * vec4(place, 1.0); }`;

const PICTURE_FRAGMENT = `#version 300 es
precision mediump float;
in vec2 at;
uniform sampler2D picture;
out vec4 result;
void main() { result = vec4(texture(picture, at).rgb, 1.0); }`;

/** A linked program with the places of its attributes and uniforms. */
class Program {
  constructor(gl, vertex, fragment) {
    this.handle = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(this.handle, shader);
    }
    gl.linkProgram(this.handle);
    if (!gl.getProgramParameter(this.handle, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(this.handle));
    this.uniforms = new Proxy({}, {
      get: (known, name) => (known[name] ??= gl.getUniformLocation(this.handle, name)),
    });
    this.attributes = new Proxy({}, {
      get: (known, name) => (known[name] ??= gl.getAttribLocation(this.handle, name)),
    });
  }
}
