// Server-sent events, by the WHATWG algorithm, from the body of a reply.

/** Text in, of any size and split anywhere; the data of each whole event out. */
export class EventReader {
  #decoder = new TextDecoder(); // it takes a mark at the beginning away, and waits for the rest of a character
  #line = "";
  #data = [];
  #endedByReturn = false;

  feed(bytes) {
    const found = [];
    const text = this.#decoder.decode(bytes, { stream: true });
    if (!text) return found;
    const rest = this.#endedByReturn && text[0] === "\n" ? text.slice(1) : text;
    this.#endedByReturn = text.endsWith("\r");
    const lines = (this.#line + rest).split(/\r\n|\r|\n/);
    this.#line = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length) found.push(this.#data.join("\n"));
        this.#data = [];
      } else if (line === "data") {
        this.#data.push("");
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
    return found;
  }
}

/** The data of each event of a stream of bytes. Leaving the loop ends the stream. */
export async function* eventsOf(body) {
  const reader = body.getReader();
  const events = new EventReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* events.feed(value);
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already, which whoever reads has been told
  }
}
