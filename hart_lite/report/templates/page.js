"use strict";
// The viewer: any picture of the page, large. Enter or a click opens, arrows and swipes go on, Escape closes.
(() => {
  const viewer = document.getElementById("viewer"), stage = viewer.querySelector(".stage");
  const button = (name) => viewer.querySelector(`[data-do=${name}]`);
  let looks = [], at = 0, zoom = 1, touched = null, pair = matchMedia("(min-width: 60rem)").matches;

  const series = () => {
    const home = looks[at].closest(".series");
    return home ? [...home.querySelectorAll(".look")] : [looks[at]];
  };
  const enlarged = (look) => {
    const copy = look.cloneNode(true), box = copy.querySelector("svg")?.viewBox.baseVal;
    copy.removeAttribute("role");
    copy.removeAttribute("tabindex");
    if (box) copy.style.setProperty("--aspect", box.width / box.height);
    return copy;
  };
  const magnify = (factor) => {
    zoom = Math.min(8, Math.max(1, factor ? zoom * factor : 1));
    stage.style.setProperty("--zoom", zoom);
    button("smaller").disabled = zoom === 1;
  };
  const draw = () => {
    const row = series(), here = looks[at], both = pair && row.length > 1 && here !== row[0];
    stage.replaceChildren(...(both ? [row[0], here] : [here]).map(enlarged));
    const home = here.closest("article, section");
    viewer.querySelector("h3").textContent = home?.querySelector("h3, h2")?.textContent ?? "";
    viewer.querySelector(".tabs").replaceChildren(...(row.length > 1 ? row : []).map((look) => {
      const tab = document.createElement("button");
      tab.textContent = look.querySelector(".when")?.textContent ?? "";
      tab.setAttribute("aria-pressed", look === here);
      tab.onclick = () => go(looks.indexOf(look));
      return tab;
    }));
    button("pair").hidden = row.length < 2;
    button("pair").setAttribute("aria-pressed", pair);
    button("previous").disabled = at === 0;
    button("next").disabled = at === looks.length - 1;
  };
  const go = (number) => {
    at = Math.min(Math.max(number, 0), looks.length - 1);
    magnify(0);
    draw();
  };
  const open = (look) => {
    looks = [...document.querySelectorAll("main .look")].filter((other) => other.offsetParent);
    go(looks.indexOf(look));
    viewer.showModal();
    stage.focus();
  };
  const actions = {
    close: () => viewer.close(),
    previous: () => go(at - 1),
    next: () => go(at + 1),
    larger: () => magnify(1.5),
    smaller: () => magnify(1 / 1.5),
    pair: () => { pair = !pair; draw(); },
  };
  const keys = { ArrowLeft: "previous", ArrowRight: "next", "+": "larger", "=": "larger", "-": "smaller", b: "pair" };

  for (const [name, act] of Object.entries(actions)) button(name).onclick = act;
  viewer.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    if (!button(keys[event.key]).hidden) actions[keys[event.key]]();
  });
  stage.addEventListener("dblclick", (event) => {
    const pane = event.target.closest(".pane"), photo = event.target.closest(".photo")?.getBoundingClientRect();
    if (!photo) return;
    const [x, y] = [(event.clientX - photo.left) / photo.width, (event.clientY - photo.top) / photo.height];
    magnify(zoom > 1 ? 0 : 3);
    pane.scrollTo(x * pane.scrollWidth - pane.clientWidth / 2, y * pane.scrollHeight - pane.clientHeight / 2);
  });
  stage.addEventListener("touchstart", (event) => { touched = event.touches.length === 1 ? event.touches[0] : null; });
  stage.addEventListener("touchend", (event) => {
    const [x, y] = touched ? ["X", "Y"].map((a) => event.changedTouches[0][`client${a}`] - touched[`client${a}`]) : [0, 0];
    if (zoom === 1 && Math.abs(x) > 60 && Math.abs(x) > 2 * Math.abs(y)) go(at - Math.sign(x));
  });
  const opened = (event) => {
    const look = event.target.closest("main .look");
    if (look && !event.target.closest("a, button, summary")) open(look);
  };
  document.addEventListener("click", opened);
  document.addEventListener("keydown", (event) => {
    if (!viewer.open && event.key === "Enter") opened(event);
  });
  window.enlargeable = (home) => home.querySelectorAll(".look").forEach((look) => {
    look.tabIndex = 0;
    look.setAttribute("role", "button");
    look.setAttribute("aria-label", `Enlarge: ${look.querySelector("h3, .when")?.textContent ?? "picture"}`);
  });
  window.enlargeable(document);

  const seconds = Number(document.body.dataset.refresh);
  const again = () => (viewer.open ? setTimeout(again, 2000) : location.reload());
  if (seconds) setTimeout(again, 1000 * seconds);
})();

// The gallery: filters, and pages in place of a long scroll. Without a script all cards are there, under headings.
(() => {
  const form = document.querySelector(".filters");
  if (!form) return;
  const PAGE = matchMedia("(max-width: 40rem)").matches ? 6 : 12, buttons = (name) => document.querySelectorAll(`[name=${name}]`);
  const cards = [...document.querySelectorAll("[data-outcome]")];
  let page = 0;
  const show = () => {
    const asked = [...form.querySelectorAll("select")].map((select) => [select.name, select.value]);
    const found = cards.filter((card) => asked.every(([name, value]) => !value || card.dataset[name] === value));
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(page, pages - 1);
    const shown = new Set(found.slice(page * PAGE, (page + 1) * PAGE));
    for (const card of cards) card.hidden = !shown.has(card);
    for (const part of document.querySelectorAll("section")) part.hidden = !part.querySelector("[data-outcome]:not([hidden])");
    form.querySelector("output").textContent = `${found.length} questions, page ${page + 1} of ${pages}`;
    for (const button of buttons("back")) button.disabled = page === 0;
    for (const button of buttons("on")) button.disabled = page === pages - 1;
  };
  const turn = (by) => () => { page += by; show(); form.scrollIntoView(); };
  for (const button of buttons("back")) button.onclick = turn(-1);
  for (const button of buttons("on")) button.onclick = turn(1);
  form.onchange = () => { page = 0; show(); };
  for (const part of document.querySelectorAll(".filters")) part.hidden = false;
  document.querySelector("nav").hidden = true;
  show();
})();
