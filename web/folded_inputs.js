// Advanced inputs, which Nodes 2.0 folds and the classic renderer does not, are folded in both.

import { app } from "../../scripts/app.js";

const ALWAYS_ADVANCED = "Comfy.Node.AlwaysShowAdvancedWidgets";
const CUSTOM = "custom";
const AWAY = -1e5;

/** Settings of the host that change what is folded: the first shows all, the second is the renderer. */
export const FOLDING_SETTINGS = [ALWAYS_ADVANCED, "Comfy.VueNodes.Enabled"];

const alwaysShown = () => app.extensionManager?.setting?.get(ALWAYS_ADVANCED) ?? false;

const isLinked = (node, { name }) => node.inputs?.some(({ widget, link }) => widget?.name === name && link != null);

/** Call `first` before a method of an object, with the same arguments. */
function before(object, name, first) {
  const { [name]: method } = object;
  object[name] = function (...values) {
    first(...values);
    return method?.apply(this, values);
  };
}

/** The descriptor of a property of an object or of what it inherits from. */
function descriptorOf(object, name) {
  if (!object) return undefined;
  return Object.getOwnPropertyDescriptor(object, name) ?? descriptorOf(Object.getPrototypeOf(object), name);
}

/** Call `then` after each assignment to a property, which the front end may watch or keep elsewhere. */
function afterSet(object, name, then) {
  const watched = descriptorOf(object, name);
  let value = object[name];
  Object.defineProperty(object, name, {
    configurable: true,
    enumerable: true,
    get: () => (watched?.get ? watched.get.call(object) : value),
    set: (given) => {
      if (watched?.set) watched.set.call(object, given);
      value = given;
      then();
    },
  });
}

/** By node: its advanced inputs. Nodes 2.0 folds them unless they are linked; the classic renderer does not. */
const advanced = new WeakMap();

/** Fold them in both; “Show Advanced” in the node's menu unfolds them. */
export function fold(node) {
  const isClassic = !window.LiteGraph?.vueNodesMode;
  for (const widget of advanced.get(node) ?? []) {
    const isFolded = !alwaysShown() && !isLinked(node, widget);
    const isHidden = isFolded && !node.showAdvanced && isClassic;
    widget.advanced = isFolded;
    widget.hidden = isHidden; // the classic renderer leaves room for what is advanced, but none for what is hidden
    if (isHidden) widget.y = AWAY; // else links could be dropped on it, where it was
  }
}

/** Fold those of a new node. */
export function foldAdvanced(node) {
  const widgets = (node.widgets ?? []).filter(({ options }) => options?.advanced);
  if (!widgets.length) return; // or the host is too old to say
  advanced.set(node, widgets);
  afterSet(node, "showAdvanced", () => fold(node));
  for (const event of ["onConnectionsChange", "onConfigure"]) before(node, event, () => fold(node));
  fold(node);
  node.setSize([node.size[0], node.computeSize()[1]]);
}

/** Where the preset “custom” is chosen, the settings that only it uses are unfolded. */
export function unfoldCustom(node) {
  const preset = node.widgets?.find(({ name }) => name === "preset");
  if (!preset) return;
  before(preset, "callback", (value) => {
    node.showAdvanced = value === CUSTOM;
    node.expandToFitContent?.();
    app.canvas?.setDirty(true, true);
  });
  before(node, "onConfigure", (saved) => {
    if (saved?.showAdvanced == null && preset.value === CUSTOM) node.showAdvanced = true;
  });
}
