
// The demo: a photo or an example goes to the server, answers come back as lines, and a box can be drawn by hand.
(() => {
  const find = (query) => document.querySelector(query);
  const svg = find("#stage svg"), image = find("#photo"), question = find("#question"), choices = find("#choices");
  const shown = find("#box"), [casing, frame, ...corners] = shown.children, clear = find("[data-do=clear]");
  const hints = { none: "Drag on the photo to draw a box, and see what is answered from it alone.",
    model: "Here the model looked. Drag the box, or a corner, and see what is answered from it alone.",
    own: "What lies in this box is all that is looked at." };
  const asking = new Map();  // from the place of the answers to what ends the question
  let source = null, size = [1, 1], box = null, whose = "own", zoom = 1;

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const say = (home, text) => {
    const p = document.createElement("p");
    p.className = "card caution";
    p.setAttribute("role", "alert");
    p.textContent = text;
    home.replaceChildren(p);
  };
  const post = (path, words, signal) => fetch(`${path}?${new URLSearchParams({ ...words, ...source.words })}`,
    { method: "POST", body: source.file ?? "", signal });

  // -- the photo
  const take = async (file, example) => {
    const chosen = source = { file, words: example === undefined ? {} : { example } };
    find("#stage").hidden = true;
    for (const one of asking.values()) one.abort();
    find("#result").replaceChildren();
    find("#yours").replaceChildren();
    place(null);
    if (find("#toy")) find("#toy").hidden = example !== undefined;
    const answer = await post("/photo", {}).catch(() => null);
    if (chosen !== source) return false;
    const found = answer?.ok ? await answer.json() : { error: answer ? await answer.text() : "the server is gone" };
    if (found.error) {
      source = null;
      say(find("#result"), found.error);
      return false;
    }
    size = [found.width, found.height];
    image.setAttribute("href", found.preview);
    for (const [n, name] of ["width", "height"].entries()) image.setAttribute(name, size[n]);
    find(".area").style.setProperty("--aspect", size[0] / size[1]);
    svg.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
    find("#stage").hidden = false;
    return true;
  };
  find("#file").onchange = (event) => event.target.files[0] && take(event.target.files[0]);
  const drop = find("#drop");
  for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => event.clipboardData.files[0] && take(event.clipboardData.files[0]));

  // -- questions
  const ask = async (home, words) => {
    if (!source) return say(home, "there is no photo; drop one first");
    asking.get(home)?.abort();
    asking.set(home, new AbortController());
    const { signal } = asking.get(home);
    try {
      const answer = await post("/ask", { question: question.value, choices: choices.value, ...words }, signal);
      if (!answer.ok) return say(home, await answer.text());
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        const lines = (rest + part.value).split("\n");
        rest = lines.pop();
        if (lines.length) home.innerHTML = JSON.parse(lines.at(-1));  // escaped by the server
        window.enlargeable(home);
      }
    } catch (error) {
      if (error.name !== "AbortError") say(home, "the server is gone; start it again");
    }
    return signal;
  };
  const askAll = async () => {
    place(null);
    find("#yours").replaceChildren();
    const signal = await ask(find("#result"), {});
    find("#result").scrollIntoView({ block: "nearest" });
    const named = find("#result section article:last-child [data-box]");
    if (named && !box && signal && !signal.aborted) place(named.dataset.box.split(",").map(Number), "model");
  };
  // A box that a model named goes onto the photo, to be moved.
  find("#result").addEventListener("click", (event) => {
    const button = event.target.closest("[data-box]");
    if (!button) return;
    place(button.dataset.box.split(",").map(Number), "model");
    svg.scrollIntoView({ block: "center" });
    svg.focus({ preventScroll: true });
  });
  find("#ask").onsubmit = (event) => { event.preventDefault(); askAll(); };
  document.querySelectorAll("[data-example]").forEach((button) => {
    button.onclick = async () => {
      [question.value, choices.value] = [button.dataset.question, button.dataset.choices];
      if (await take(undefined, button.dataset.example)) askAll();
    };
  });

  // -- a box by hand: in original pixels, [left, top, right, bottom]
  const place = (to, by = "own") => {
    [box, whose] = [to, by];
    clear.disabled = !to;
    shown.toggleAttribute("hidden", !to);
    shown.setAttribute("class", whose);
    find("#hint").textContent = hints[to ? whose : "none"];
    if (!to) return;
    // Corners lie around the box, so that what is in a small one is seen and can be taken hold of.
    const scale = size[0] / (svg.getBoundingClientRect().width || size[0]);
    const unit = scale * (matchMedia("(pointer: coarse)").matches ? 24 : 14);
    const set = (shape, ...values) => ["x", "y", "width", "height"].forEach((name, n) => shape.setAttribute(name, values[n]));
    for (const shape of [casing, frame]) set(shape, to[0], to[1], to[2] - to[0], to[3] - to[1]);
    corners.forEach((corner, n) => set(corner, n % 2 ? Math.min(to[2], size[0] - unit) : Math.max(to[0] - unit, 0),
      n < 2 ? Math.max(to[1] - unit, 0) : Math.min(to[3], size[1] - unit), unit, unit));
  };
  const point = (event) => {
    const area = svg.getBoundingClientRect();
    return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height]
      .map((share, n) => clamp(share, 0, 1) * size[n]);
  };
  const between = (a, b) => [0, 1].map((n) => Math.min(a[n], b[n])).concat([0, 1].map((n) => Math.max(a[n], b[n])));
  const moved = (from, by) => {
    const [x, y] = [0, 1].map((n) => clamp(by[n], -from[n], size[n] - from[n + 2]));
    return [from[0] + x, from[1] + y, from[2] + x, from[3] + y];
  };
  const askBox = () => {
    if (question.value.trim()) ask(find("#yours"), { box: box.map((v) => v.toFixed(1)).join(",") });
    else say(find("#yours"), "type a question, then draw the box again");
  };
  svg.onpointerdown = (event) => {
    if (event.button) return;
    const start = point(event), from = box, by = whose, corner = corners.indexOf(event.target);
    const fixed = corner < 0 ? start : [from[corner % 2 ? 0 : 2], from[corner < 2 ? 3 : 1]];
    const grip = corner < 0 ? start : [from[corner % 2 ? 2 : 0], from[corner < 2 ? 1 : 3]];
    svg.setPointerCapture(event.pointerId);
    svg.onpointermove = (move) => {
      const way = point(move).map((value, n) => value - start[n]);
      if (event.target === frame) return place(moved(from, way));
      place(between(fixed, grip.map((value, n) => clamp(value + way[n], 0, size[n]))));
    };
    svg.onpointerup = svg.onpointercancel = () => {
      svg.onpointermove = svg.onpointerup = svg.onpointercancel = null;
      if (box && (box[2] - box[0] < 1 || box[3] - box[1] < 1)) place(from, by);
      if (box && box !== from) askBox();
    };
  };
  svg.onkeydown = (event) => {
    const step = Math.max(...size) / 50;
    const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (by) {
      event.preventDefault();
      const from = box ?? [0.4, 0.4, 0.6, 0.6].map((share, n) => share * size[n % 2]);
      const far = [0, 1].map((n) => clamp(from[n + 2] + by[n], from[n] + 1, size[n]));
      place(box === null ? from : event.shiftKey ? [from[0], from[1], ...far] : moved(from, by));
    } else if (event.key === "Enter" && box) askBox();
  };
  clear.onclick = () => { place(null); find("#yours").replaceChildren(); };
  addEventListener("resize", () => place(box, whose));
  const magnify = (by) => () => {
    zoom = clamp(zoom * by, 1, 8);
    find(".area").style.setProperty("--zoom", zoom);
    place(box, whose);
  };
  find("[data-do=in]").onclick = magnify(1.5);
  find("[data-do=out]").onclick = magnify(1 / 1.5);
})();
