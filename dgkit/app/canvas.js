// The drawing surface. It holds train ids, not colours: what is drawn has exactly one class per pixel.
const canvas = element.querySelector("#dg-canvas"), context = canvas.getContext("2d");
const find = (name) => element.querySelector("#dg-" + name);
const palette = new Map([...element.querySelectorAll(".dg-class")].map((item) => [
  +item.querySelector("input").value,
  item.querySelector("i").style.backgroundColor.match(/\d+/g).map(Number),
]));
const LONGEST = 30; // steps of Undo
let height = 0, width = 0, ids = new Uint8Array(0), original = ids, history = [], last = null;

function show() {
  const picture = context.createImageData(width || 1, height || 1);
  ids.forEach((id, at) => picture.data.set([...palette.get(id), 255], 4 * at));
  context.putImageData(picture, 0, 0);
}
function load(text) {
  const parts = /^(\d+)x(\d+):(.+)$/.exec(text || "");
  if (!parts) return;
  [height, width] = [+parts[1], +parts[2]];
  [canvas.height, canvas.width] = [height, width];
  ids = Uint8Array.from(atob(parts[3]), (letter) => letter.charCodeAt(0));
  original = ids.slice();
  history = [];
  show();
}
function save() {
  const letters = [];
  for (let at = 0; at < ids.length; at += 8192) letters.push(String.fromCharCode(...ids.subarray(at, at + 8192)));
  return height ? `${height}x${width}:${btoa(letters.join(""))}` : "";
}
function remember() {
  history.push(ids.slice());
  if (history.length > LONGEST) history.shift();
}
const chosen = () => +element.querySelector(".dg-class input:checked").value;
function position(event) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height];
}
function disc(x, y) {
  const radius = find("size").value / 2, id = chosen();
  for (let row = Math.max(0, Math.floor(y - radius)); row <= Math.min(height - 1, y + radius); row++)
    for (let column = Math.max(0, Math.floor(x - radius)); column <= Math.min(width - 1, x + radius); column++)
      if ((row + 0.5 - y) ** 2 + (column + 0.5 - x) ** 2 <= Math.max(radius, 0.71) ** 2) ids[row * width + column] = id;
}
function line([x, y]) {
  const [fromX, fromY] = last || [x, y], steps = Math.ceil(Math.max(Math.abs(x - fromX), Math.abs(y - fromY))) || 1;
  for (let step = 1; step <= steps; step++)
    disc(fromX + ((x - fromX) * step) / steps, fromY + ((y - fromY) * step) / steps);
  last = [x, y];
  show();
}
function fill([x, y]) {
  const start = Math.floor(y) * width + Math.floor(x), from = ids[start], id = chosen(), open = [start];
  while (open.length && from !== id) {
    const at = open.pop();
    if (ids[at] !== from) continue;
    ids[at] = id;
    if (at % width) open.push(at - 1);
    if ((at + 1) % width) open.push(at + 1);
    if (at >= width) open.push(at - width);
    if (at + width < ids.length) open.push(at + width);
  }
  show();
}
canvas.addEventListener("pointerdown", (event) => {
  if (!height || event.button) return;
  event.preventDefault();
  remember();
  if (find("fill").checked) return fill(position(event));
  canvas.setPointerCapture(event.pointerId);
  last = null;
  line(position(event));
});
canvas.addEventListener("pointermove", (event) => last && line(position(event)));
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));
find("undo").addEventListener("click", () => {
  if (history.length) ids = history.pop();
  show();
});
find("revert").addEventListener("click", () => {
  remember();
  ids = original.slice();
  show();
});
find("file").addEventListener("change", (event) => {
  const file = event.target.files[0], reader = new FileReader();
  event.target.value = "";
  if (!file) return;
  reader.onload = () => trigger("upload", { name: file.name, data: file.size > UPLOAD_BYTES ? null : reader.result.split(",")[1] });
  reader.readAsDataURL(file.slice(0, UPLOAD_BYTES + 1));
});
window.dgkitDrawing = save;
load(props.value);
watch("value", () => load(props.value));
