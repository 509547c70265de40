// The words of a frame as text below its images: a legend of buttons, and what is under the pointer. Words are text
// of the page, never markup, and each runs in its own direction.

const ROW = 17;

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

/** A word of a frame in words. */
export const describe = ({ text, area, scale }) => `${text}: ${percent(area)} · mean γ ${scale.toFixed(2)}`;

function make(kind, name, text = "") {
  const element = document.createElement(kind);
  element.className = name;
  element.textContent = text;
  return element;
}

/** Swatch, word and what is said of it. */
function entry(kind, { text, colour }, said) {
  const element = make(kind, "scfg-word");
  const swatch = make("span", "scfg-swatch");
  swatch.style.background = `rgb(${colour})`;
  element.append(swatch, make("bdi", "scfg-text", text), make("span", "scfg-said", said));
  element.title = text;
  return element;
}

/** The word, its area and its scales, at a place with the scale `here`. */
export function readout(word, here) {
  return entry("div", word, `${percent(word.area)} · mean γ ${word.scale.toFixed(2)} · here ${here.toFixed(2)}`);
}

export class Legend {
  /** `choose` is called with the text of a word that is clicked. */
  constructor(choose) {
    this.choose = choose;
    this.isOpen = false;
    this.element = make("div", "scfg-legend");
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", "Words");
    this.more = make("button", "scfg-more");
    this.more.type = "button";
    this.more.addEventListener("click", () => {
      this.isOpen = !this.isOpen;
      this.#fold();
    });
    this.buttons = new Map(); // by word: {button, said}
  }

  /** Show words {text, colour, area}; those that do not fit are folded. */
  show(words, solo) {
    const shown = words.map((word) => this.#button(word, solo));
    if (shown.some((button, index) => button !== this.element.children[index])) {
      this.element.replaceChildren(...shown, this.more);
    }
    this.#fold();
  }

  clear() {
    this.element.replaceChildren();
    this.buttons.clear();
  }

  #button(word, solo) {
    let button = this.buttons.get(word.text);
    if (!button) {
      button = entry("button", word, "");
      button.type = "button";
      button.addEventListener("click", () => this.choose(word.text));
      this.buttons.set(word.text, button);
    }
    button.firstChild.style.background = `rgb(${word.colour})`;
    button.lastChild.textContent = percent(word.area);
    button.setAttribute("aria-pressed", String(solo === word.text));
    button.classList.toggle("scfg-faint", Boolean(solo && solo !== word.text) || !word.area);
    return button;
  }

  /** Hide the words that do not fit, and say how many they are. */
  #fold() {
    const buttons = [...this.element.children].filter((child) => child !== this.more);
    for (const button of buttons) button.hidden = false;
    this.more.hidden = true;
    this.element.classList.remove("scfg-open");
    const height = this.element.clientHeight;
    const fits = (element) => element.offsetTop + ROW <= height;
    if (!buttons.length || fits(buttons.at(-1))) return;
    this.more.hidden = false;
    this.more.setAttribute("aria-expanded", String(this.isOpen));
    if (this.isOpen) {
      this.element.classList.add("scfg-open");
      this.more.textContent = "fewer";
      return;
    }
    let count = buttons.findIndex((button) => !fits(button));
    do {
      count -= 1;
      buttons.forEach((button, index) => (button.hidden = index >= count));
      this.more.textContent = `+${buttons.length - count} more`;
    } while (count > 1 && !fits(this.more));
  }
}
