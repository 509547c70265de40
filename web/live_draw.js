// Draws the images, the colour ramp and the slider of the live view on its canvas; parts that react to the pointer
// return an area {kind, box: [x, y, w, h]}.

export const LINE = 17;
const FONT = "12px Inter, Arial, sans-serif";
const SMALL = "10px Inter, Arial, sans-serif";
const OVERLAY = 0.65;
const SMOOTH_ABOVE = 64; // previews up to this width are shown as sharp pixels

/** A cleared 2D context in CSS pixels, with its origin `inset` pixels from the corner. */
export function clearedContext(canvas, width, height, inset, sharpness, ink) {
  const size = [Math.round(width * sharpness), Math.round(height * sharpness)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  const context = canvas.getContext("2d");
  context.setTransform(sharpness, 0, 0, sharpness, 0, 0);
  context.clearRect(0, 0, width, height);
  context.translate(inset, inset);
  return Object.assign(context, { font: FONT, textBaseline: "middle", textAlign: "left", fillStyle: ink });
}

/** The regions of the words over the predicted image. */
export function drawRegions(context, frame, preview, solo, box) {
  context.save();
  if (preview) {
    context.imageSmoothingEnabled = preview.naturalWidth > SMOOTH_ABOVE;
    context.filter = "grayscale(1)";
    context.drawImage(preview, ...box);
    context.filter = "none";
  }
  context.imageSmoothingEnabled = false;
  context.globalAlpha = preview ? OVERLAY : 1;
  context.drawImage(frame.regions(solo), ...box);
  context.globalAlpha = 0.9;
  drawBorders(context, frame, box);
  context.restore();
  return drawOutline(context, box);
}

/** White lines between the words. */
function drawBorders(context, { labels, width, height }, [left, top, w, h]) {
  const [cw, ch] = [w / width, h / height];
  context.beginPath();
  for (let cell = 0; cell < labels.length; cell++) {
    const [x, y] = [left + (cell % width) * cw, top + Math.floor(cell / width) * ch];
    if (cell % width && labels[cell] !== labels[cell - 1]) context.rect(x - 0.5, y - 0.5, 1, ch + 1);
    if (cell >= width && labels[cell] !== labels[cell - width]) context.rect(x - 0.5, y - 0.5, cw + 1, 1);
  }
  context.fillStyle = "#fff";
  context.fill();
}

export function drawScales(context, frame, solo, box) {
  context.imageSmoothingEnabled = false;
  context.drawImage(frame.scales(solo), ...box);
  return drawOutline(context, box);
}

function drawOutline(context, box) {
  context.save();
  Object.assign(context, { globalAlpha: 0.4, strokeStyle: context.fillStyle });
  context.strokeRect(...box);
  context.restore();
  return { kind: "image", box };
}

/** The colour ramp with the minimum scale, the sampler's CFG scale and the maximum scale. */
export function drawRamp(context, frame, left, top, width) {
  const gradient = context.createLinearGradient(left, 0, left + width, 0);
  frame.ramp.forEach((colour, i) => gradient.addColorStop(i / (frame.ramp.length - 1), `rgb(${colour})`));
  context.save();
  context.fillStyle = gradient;
  context.fillRect(left, top + 4, width, 8);
  context.restore();
  context.font = SMALL;
  for (const [position, align] of [[-1, "left"], [0, "center"], [1, "right"]]) {
    context.textAlign = align;
    const scale = (frame.scale * Math.exp(position * frame.span)).toFixed(2);
    context.fillText(position ? scale : `γ ${scale}`, left + ((position + 1) / 2) * width, top + 1.4 * LINE);
  }
  Object.assign(context, { font: FONT, textAlign: "left" });
}

/** The number of the step, in the place of a caption. */
export function drawStep(context, frame, left, top, width) {
  context.fillText(`step ${frame.step + 1} of ${frame.steps}`, left, top + LINE / 2 + 2, width);
}

/** The step slider; `position` 0…1 is that of its knob. */
export function drawSlider(context, position, focused, top, width) {
  const [left, length, middle] = [8, width - 16, top + LINE / 2];
  context.globalAlpha = 0.35;
  context.fillRect(left, middle - 1.5, length, 3);
  context.globalAlpha = 1;
  context.fillRect(left, middle - 1.5, length * position, 3);
  context.beginPath();
  context.arc(left + length * position, middle, focused ? 7 : 6, 0, 2 * Math.PI);
  context.fill();
  if (focused) drawFocusRing(context, left + length * position, middle);
  return { kind: "slider", box: [left, top, length, LINE] };
}

function drawFocusRing(context, x, y) {
  context.save();
  Object.assign(context, { globalAlpha: 0.5, strokeStyle: context.fillStyle, lineWidth: 1.5 });
  context.beginPath();
  context.arc(x, y, 9.5, 0, 2 * Math.PI);
  context.stroke();
  context.restore();
}
