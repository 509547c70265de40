// The only file that talks to ComfyUI's front end: settings, events, and the live view on a node.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { LiveView } from "./live_view.js";
import { Result } from "./live_result.js";

const NODES = ["SCFGAttention", "SCFGGuidance"];
const EVENT = "scfg.step";
const WIDGET = "scfg_live";
const ON = "SCFG.Live.On";
const INTERVAL = "SCFG.Live.Interval";
const DEFAULT_INTERVAL = 150;
const MAX_RESULTS = 32;
const NODE_WIDTH = 340;

/** Results by graph and execution id ("12:5" inside a subgraph), the newest run last. */
const results = new Map();

let subscribed = null;

const setting = (name, fallback) => app.extensionManager?.setting?.get(name) ?? fallback;

/** Tell the server how often this page wants frames; when the live view is off, drop old frames. */
async function subscribe() {
  if (!api.clientId) return;
  if (!setting(ON, true)) results.clear();
  const interval = setting(ON, true) ? Math.max(1, Number(setting(INTERVAL, DEFAULT_INTERVAL))) / 1000 : null;
  const request = JSON.stringify({ client: api.clientId, interval });
  if (request === subscribed) return;
  subscribed = request;
  refresh();
  try {
    const headers = { "Content-Type": "application/json" };
    await api.fetchApi("/scfg/live", { method: "POST", headers, body: request });
  } catch {
    subscribed = null;
  }
}

/** The page announces a setting before it stores the new value. */
const changed = () => queueMicrotask(subscribe);

/** The node with an execution id in the open workflow, or undefined. */
function nodeAt(executionId) {
  let graph = app.rootGraph ?? app.graph;
  const path = String(executionId).split(":");
  for (const id of path.slice(0, -1)) graph = graph?.getNodeById(Number(id))?.subgraph;
  return graph?.getNodeById(Number(path.at(-1))) ?? undefined;
}

const isOpen = (result) => !result.graph || result.graph === (app.rootGraph ?? app.graph)?.id;

/** The newest result of a node; looked up when drawing, because a node gets its id after it is created. */
function resultOf(node) {
  let found = null;
  for (const result of results.values()) if (isOpen(result) && nodeAt(result.node) === node) found = result;
  return found;
}

function refresh(node) {
  for (const target of node ? [node] : (app.canvas?.graph?.nodes ?? [])) {
    target.widgets?.find(({ name }) => name === WIDGET)?.view?.refresh();
  }
}

function receive(message) {
  const key = `${message.graph} ${message.node}`;
  let result = results.get(key);
  if (result?.run !== message.run) {
    result = new Result(message);
    results.delete(key);
    results.set(key, result);
    if (results.size > MAX_RESULTS) results.delete(results.keys().next().value);
  }
  result.add(message);
  const node = isOpen(result) ? nodeAt(message.node) : undefined;
  if (node) refresh(node);
}

function mount(node) {
  const view = new LiveView(() => resultOf(node), () => setting(ON, true));
  view.element.addEventListener("wheel", (event) => {
    if (!window.LiteGraph?.vueNodesMode) app.canvas.processMouseWheel(event);
  });
  const options = { serialize: false, hideOnZoom: false, getMinHeight: () => LiveView.height, margin: 6 };
  const widget = node.addDOMWidget(WIDGET, "SCFG_LIVE", view.element, options);
  widget.serialize = false;
  widget.view = view;
  const size = node.computeSize();
  node.setSize([Math.max(NODE_WIDTH, size[0]), size[1]]);
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
    if (NODES.includes(node.comfyClass)) mount(node);
  },
  setup() {
    api.addEventListener(EVENT, ({ detail }) => receive(detail));
    api.addEventListener("status", subscribe);
    api.addEventListener("reconnected", () => {
      subscribed = null;
      subscribe();
    });
    subscribe();
  },
});
