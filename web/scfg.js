// What talks to ComfyUI's front end, with folded_inputs.js: settings, events, and the live view and messages on nodes.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { FOLDING_SETTINGS, fold, foldAdvanced, unfoldCustom } from "./folded_inputs.js";
import { LiveView } from "./live_view.js";
import { Runs } from "./live_runs.js";

const GUIDANCE = "SCFGGuidance";
const NODES = ["SCFGAttention", GUIDANCE];
const WIDGET = "scfg_live";
const MESSAGE = "scfg_message";
const MESSAGE_HEIGHT = 58;
const ON = "SCFG.Live.On";
const INTERVAL = "SCFG.Live.Interval";
const DEFAULT_INTERVAL = 150;
const NODE_WIDTH = 340;

const runs = new Runs();

let subscribed = null;
let currentPrompt = null;
let asking = Promise.resolve();

const setting = (name, fallback) => app.extensionManager?.setting?.get(name) ?? fallback;

/** Tell the server how often this page wants frames; when the live view is off, drop old frames. */
async function subscribe() {
  if (!api.clientId) return;
  if (!setting(ON, true)) runs.clear();
  const interval = setting(ON, true) ? Math.max(1, Number(setting(INTERVAL, DEFAULT_INTERVAL))) / 1000 : null;
  const request = JSON.stringify({ client: api.clientId, interval });
  if (request === subscribed) return;
  subscribed = request;
  refreshAll();
  try {
    await post("/scfg/live", request);
  } catch {
    subscribed = null;
  }
}

const post = (path, body) =>
  api.fetchApi(path, { method: "POST", headers: { "Content-Type": "application/json" }, body });

/** The page announces a setting before it stores the new value. */
const changed = () => queueMicrotask(subscribe);

/** The node with an execution id in the open workflow, or undefined. */
function nodeAt(executionId) {
  let graph = app.rootGraph ?? app.graph;
  const path = String(executionId).split(":");
  for (const id of path.slice(0, -1)) graph = graph?.getNodeById(Number(id))?.subgraph;
  return graph?.getNodeById(Number(path.at(-1))) ?? undefined;
}

const isOpen = ({ graph }) => !graph || graph === (app.rootGraph ?? app.graph)?.id;

const openNode = (message) => (isOpen(message) ? nodeAt(message.node) : undefined);

/** The newest result of a node; looked up when drawing, because a node gets its id after it is created. */
const resultOf = (node) => runs.find((result) => openNode(result) === node);

const viewOf = (node) => node.widgets?.find(({ name }) => name === WIDGET)?.view;

const refresh = (node) => node && viewOf(node)?.refresh();

const refreshAll = () => (app.canvas?.graph?.nodes ?? []).forEach(refresh);

/** Nodes of the open workflow and its subgraphs. */
function* nodesIn(graph = app.rootGraph ?? app.graph) {
  for (const node of graph?.nodes ?? []) {
    yield node;
    if (node.subgraph) yield* nodesIn(node.subgraph);
  }
}

/** With the next animation frame: a setting is announced before it is stored. */
const foldAll = () =>
  requestAnimationFrame(() => {
    for (const node of nodesIn()) fold(node);
    app.canvas?.setDirty(true, true);
  });

/** Ask which runs made the images of the current prompt, if it did not make all of them anew; one question at a time. */
function recall(prompt, isOver) {
  currentPrompt = prompt;
  asking = asking.then(() => ask(prompt, isOver)).catch(() => {});
}

async function ask(prompt, isOver) {
  const viewed = [...nodesIn()].filter(viewOf);
  if (viewed.every((node) => resultOf(node)?.prompt === prompt)) return;
  const response = await post("/scfg/runs", JSON.stringify({ prompt, known: runs.complete() }));
  if (!response.ok || currentPrompt !== prompt || !setting(ON, true)) return;
  for (const message of (await response.json()).runs) runs.addRecalled(message, isOver);
  refreshAll();
}

/** Nodes 2.0 keeps the elements of a former node with the same id, for example after “undo”: put ours there. */
function claim(node) {
  const element = viewOf(node)?.element;
  if (!window.LiteGraph?.vueNodesMode || !element || element.isConnected) return;
  document.querySelector(`[data-node-id="${CSS.escape(node.id)}"] .scfg-live`)?.replaceWith(element);
}

const claimAll = () => requestAnimationFrame(() => (app.canvas?.graph?.nodes ?? []).forEach(claim));

function mount(node) {
  const view = new LiveView(() => resultOf(node), () => setting(ON, true));
  const widget = addElement(node, WIDGET, view.element, LiveView.height);
  widget.view = view;
  const size = node.computeSize();
  node.setSize([Math.max(NODE_WIDTH, size[0]), size[1]]);
  claimAll();
}

/** Whether the text under the pointer is longer than its place. */
function scrolls(target) {
  const text = target.closest(".scfg-message, .scfg-status, .scfg-open");
  return text !== null && text.scrollHeight > text.clientHeight;
}

function addElement(node, name, element, height) {
  element.addEventListener("wheel", (event) => {
    if (!window.LiteGraph?.vueNodesMode && !scrolls(event.target)) app.canvas.processMouseWheel(event);
  });
  const options = { serialize: false, hideOnZoom: false, getMinHeight: () => height, margin: 6 };
  const widget = node.addDOMWidget(name, name.toUpperCase(), element, options);
  widget.serialize = false;
  return widget;
}

/** Show a line of text on a node, until it runs again; an empty one takes the last one back. */
function showMessage({ text, ...place }) {
  const node = openNode(place);
  if (!node) return;
  if (!text) return removeMessage(node);
  const shown = node.widgets?.find(({ name }) => name === MESSAGE)?.element;
  const element = shown ?? document.createElement("div");
  element.textContent = text;
  if (shown) return; // Nodes 2.0 would keep the element of a widget that is put anew
  element.className = "scfg-message";
  addElement(node, MESSAGE, element, MESSAGE_HEIGHT);
}

function removeMessage(node) {
  const widget = node?.widgets?.find(({ name }) => name === MESSAGE);
  if (widget) node.removeWidget(widget);
}

function addStyle() {
  const link = document.createElement("link");
  Object.assign(link, { rel: "stylesheet", href: new URL("./scfg.css", import.meta.url).href });
  document.head.append(link);
}

app.registerExtension({
  name: "scfg.live",
  settings: [
    {
      id: ON,
      category: ["S-CFG", "Live view", "On"],
      name: "Show regions and scales while sampling",
      tooltip: "On S-CFG Guidance and S-CFG Attention. When off, nothing is drawn or sent.",
      type: "boolean",
      defaultValue: true,
      onChange: changed,
    },
    {
      id: INTERVAL,
      category: ["S-CFG", "Live view", "Interval"],
      name: "Minimum frame interval (ms)",
      tooltip: "Skipped steps are sent when the run ends.",
      type: "slider",
      attrs: { min: 50, max: 2000, step: 50 },
      defaultValue: DEFAULT_INTERVAL,
      onChange: changed,
    },
  ],
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("SCFG")) return;
    foldAdvanced(node);
    if (NODES.includes(node.comfyClass)) mount(node);
    if (node.comfyClass === GUIDANCE) unfoldCustom(node);
  },
  setup() {
    addStyle();
    const on = (event, handler) => api.addEventListener(event, ({ detail }) => handler(detail));
    on("scfg.step", (message) => {
      runs.addFrame(message);
      refresh(openNode(message));
    });
    on("scfg.run", (message) => {
      runs.addEnd(message);
      refresh(openNode(message));
    });
    on("scfg.message", showMessage);
    on("executing", (id) => id && removeMessage(nodeAt(id)));
    on("execution_cached", ({ prompt_id }) => recall(prompt_id, false));
    on("execution_success", ({ prompt_id }) => recall(prompt_id, true));
    on("status", subscribe);
    on("reconnected", () => {
      subscribed = null;
      subscribe();
    });
    app.canvas.canvas.addEventListener("litegraph:set-graph", claimAll);
    for (const name of FOLDING_SETTINGS) app.ui.settings.addEventListener(`${name}.change`, foldAll);
    subscribe();
  },
});
