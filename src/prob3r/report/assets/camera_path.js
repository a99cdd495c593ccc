/* What the model's own camera head says at every block. */

function cameraPath(root) {
  const { blocks, against, rotation_error: rotation, translation_error: translation } = DATA.camera_path;
  const steps = blocks.map((block) => ({ block, kind: "output" }));
  const none = blocks.map(() => null); // view 1 is the reference
  const chart = (title, errors, empty) => new Curve({
    title, steps, against, empty,
    values: [none, ...OTHERS.map((view) => errors[`view${view + 1}`])],
    show: (v, axis) => `${axis ? v : v.toFixed(1)}°`,
  }, choose);
  const curves = [chart("Rotation error", rotation, "no number"), chart("Translation error", translation, "no camera moved")];
  function choose(step) {
    for (const curve of curves) curve.at(step, false);
  }
  part(root, "curves").append(...curves.map((curve) => curve.figure));
  choose(steps.length - 1);
}
