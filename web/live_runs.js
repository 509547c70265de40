// The runs that a page knows: of every node the one that made its image, by graph and execution id ("12:5" inside a
// subgraph).

import { Result } from "./live_result.js";

const MAX_RESULTS = 32;
const UNKNOWN = "No record of the last run: change the seed to sample again";

const keyOf = ({ graph, node }) => `${graph} ${node}`;

export class Runs {
  #results = new Map(); // the newest last

  clear() {
    this.#results.clear();
  }

  /** The newest result that matches, or null. */
  find(matches) {
    return [...this.#results.values()].findLast(matches) ?? null;
  }

  /** Ids of the runs of which nothing is missing. */
  complete() {
    const results = [...this.#results.values()];
    return results.filter((result) => result.frames.length || !result.active).map(({ run }) => run);
  }

  addFrame(message) {
    this.#of(message).add(message);
  }

  /** How a run ended: `status`, whether S-CFG was `active`, and if not, the `remedy`. */
  addEnd(message) {
    this.#of(message).end(message);
  }

  /**
   * The run behind an image that the prompt did not make anew, as the server remembers it; `run` null means that it
   * remembers none, which matters once the prompt is over.
   */
  addRecalled(message, isOver) {
    const shown = this.#results.get(keyOf(message));
    if (shown?.prompt === message.prompt) return; // it did make it anew
    if (message.run !== null) {
      const result = this.#of(message);
      result.prompt = message.prompt;
      result.end(message);
      for (const frame of message.frames) result.add(frame);
    } else if (isOver && shown) {
      this.#of({ ...message, run: `before ${message.prompt}` }).end({ active: false, status: UNKNOWN });
    }
  }

  /** The result of a message's run, which replaces an earlier run of its node. */
  #of(message) {
    const key = keyOf(message);
    let result = this.#results.get(key);
    if (result?.run !== message.run) {
      result = new Result(message);
      this.#results.delete(key);
      this.#results.set(key, result);
      if (this.#results.size > MAX_RESULTS) this.#results.delete(this.#results.keys().next().value);
    }
    return result;
  }
}
