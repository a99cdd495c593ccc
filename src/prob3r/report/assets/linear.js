/* Vectors and 4x4 matrices; matrices are in columns, as WebGL takes them. */

const V = {
  add: (a, b) => a.map((x, i) => x + b[i]),
  sub: (a, b) => a.map((x, i) => x - b[i]),
  scale: (a, s) => a.map((x) => x * s),
  mix: (a, b, t) => a.map((x, i) => x + (b[i] - x) * t),
  dot: (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0),
  cross: (a, b) => [
    a[1] * b[2] - a[2] * b[1],
    a[2] * b[0] - a[0] * b[2],
    a[0] * b[1] - a[1] * b[0],
  ],
  unit: (a) => V.scale(a, 1 / Math.hypot(...a)),
};

const M = {
  perspective(angle, aspect, near, far) {
    const f = 1 / Math.tan(angle / 2);
    const depth = 1 / (near - far);
    return [f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) * depth, -1, 0, 0, 2 * far * near * depth, 0];
  },
  /** World to eye, looking from one point at another. */
  look(eye, target, up) {
    const back = V.unit(V.sub(eye, target));
    const right = V.unit(V.cross(up, back));
    const above = V.cross(back, right);
    const rows = [right, above, back];
    return [0, 1, 2]
      .flatMap((column) => [...rows.map((row) => row[column]), 0])
      .concat(rows.map((row) => -V.dot(row, eye)), 1);
  },
};

/** A point after a rigid motion given as four rows. */
function moved(pose, point) {
  return [0, 1, 2].map((i) => V.dot(pose[i].slice(0, 3), point) + pose[i][3]);
}

/** Where a camera with a pose stands. */
const centre = (pose) => [0, 1, 2].map((i) => pose[i][3]);

const STILL = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]];
