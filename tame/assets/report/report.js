"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = document.getElementById("filters").namespaceURI;

  /** Create an element; text always enters as text, never as markup. */
  function make(name, attributes = {}, ...children) {
    return filled(document.createElement(name), attributes, children);
  }

  function draw(name, attributes = {}, ...children) {
    return filled(document.createElementNS(SVG, name), attributes, children);
  }

  function filled(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // Tables: the first press sorts the best to the top, the next turns it around; cells without a value stay last.

  function sort(table, head) {
    const [best, worst] = head.dataset.better === "higher" ? ["descending", "ascending"] : ["ascending", "descending"];
    const order = head.getAttribute("aria-sort") === best ? worst : best;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => row.cells[head.cellIndex].dataset.value;
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * (head.dataset.better ? a - b : a.localeCompare(b, "en", { numeric: true }));
    };
    const rows = [...table.tBodies[0].rows];
    table.tBodies[0].append(...rows.sort((a, b) => compare(value(a), value(b))));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const head of table.tHead.rows[0].cells) {
      head.querySelector("button").addEventListener("click", () => sort(table, head));
    }
  }

  // Curves

  const polygon = (corners, radius, turn = 0) =>
    "M" + Array.from({ length: corners }, (_, corner) => {
      const angle = 2 * Math.PI * (corner / corners + turn) - Math.PI / 2;
      const r = Array.isArray(radius) ? radius[corner % radius.length] : radius;
      return `${(r * Math.cos(angle)).toFixed(2)},${(r * Math.sin(angle)).toFixed(2)}`;
    }).join("L") + "Z";
  const MARKERS = {
    o: "M-3.3,0a3.3,3.3 0 1,0 6.6,0a3.3,3.3 0 1,0 -6.6,0Z", s: polygon(4, 4.2, 0.125), D: polygon(4, 4.2),
    "^": polygon(3, 4.4), v: polygon(3, 4.4, 0.5), "<": polygon(3, 4.4, 0.75), ">": polygon(3, 4.4, 0.25),
    "*": polygon(10, [5.2, 2.1]), p: polygon(5, 4.2), h: polygon(6, 4.2),
    P: "M-1.3,-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7Z",
    X: "M-3.8,-2L-2,-3.8L0,-1.8L2,-3.8L3.8,-2L1.8,0L3.8,2L2,3.8L0,1.8L-2,3.8L-3.8,2L-1.8,0Z",
  };

  function look(method) {
    const style = data.curves.methods[method].style;
    return {
      hue: style.color === "#000000" ? "var(--ink)" : `color-mix(in oklab, ${style.color} 88%, var(--ink))`,
      dash: style.dashes[1] ? style.dashes.map((length) => 2 * length).join(" ") : "none",
      marker: MARKERS[style.marker] || MARKERS.o,
      kind: style.hollow ? "marker hollow" : "marker",
    };
  }

  function swatch(method) {
    const { hue, dash, marker, kind } = look(method);
    const picture = draw("svg", { width: 34, height: 14, viewBox: "-17 -7 34 14", "aria-hidden": "true" },
      draw("path", { class: "curve", d: "M-16,0H16", "stroke-dasharray": dash }),
      draw("path", { class: kind, d: marker }));
    picture.style.setProperty("--hue", hue);
    return picture;
  }

  function ticks(low, high) {
    const step = [1, 2, 5, 10, 20, 25].find((size) => (high - low) / size <= 5.5);
    const first = Math.max(0, Math.floor(low / step) * step), last = Math.min(100, Math.ceil(high / step) * step);
    return Array.from({ length: Math.round((last - first) / step) + 1 }, (_, index) => first + index * step);
  }

  const LEFT = 34, RIGHT = 10, TOP = 10, BOTTOM = 36;

  class Panel {
    constructor(panel, hidden) {
      Object.assign(this, { panel, hidden, lines: {}, errors: {}, at: null, near: null });
      const start = data.curves.start[panel.reading];
      const begin = start === undefined ? [] : [start];
      this.x = [...begin.map(() => 0), ...data.curves.removes.map((remove) => 100 * remove)];
      for (const [method, { values, errors }] of Object.entries(data.curves.methods)) {
        this.lines[method] = [...begin, ...values[panel.name]];
        this.errors[method] = [...begin.map(() => 0), ...(errors ? errors[panel.name] : values[panel.name].map(() => 0))];
      }
      const every = Object.values(this.lines).flat().filter((value) => value !== null);
      this.ticks = ticks(Math.min(...every), Math.max(...every));
      this.svg = draw("svg", {
        tabindex: 0, role: "slider", "aria-label": `${panel.title}, ${panel.label}: removed pixels`,
        "aria-valuemin": 0, "aria-valuemax": this.x.at(-1),
      });
      this.readout = make("div", { class: "readout", hidden: "" });
      this.figure = make("figure", { class: "panel" },
        make("figcaption", {}, panel.title, make("small", {}, panel.label)), this.svg, this.readout);
      this.svg.addEventListener("pointermove", (event) => this.point(event));
      this.svg.addEventListener("pointerdown", (event) => this.point(event));
      this.svg.addEventListener("pointerleave", (event) => event.pointerType === "touch" || this.read(null));
      this.svg.addEventListener("focus", () => this.svg.matches(":focus-visible") && this.read(this.at ?? 0));
      this.svg.addEventListener("blur", () => this.read(null));
      this.svg.addEventListener("keydown", (event) => this.press(event));
      new ResizeObserver(() => this.draw()).observe(this.svg);
      this.say(0);
    }

    get shown() {
      return Object.keys(this.lines).filter((method) => !this.hidden.has(method));
    }

    scaleX(value) {
      return LEFT + (value / this.x.at(-1)) * (this.svg.clientWidth - LEFT - RIGHT);
    }

    scaleY(value) {
      const low = this.ticks[0], high = this.ticks.at(-1);
      return TOP + ((high - value) / (high - low || 1)) * (this.svg.clientHeight - TOP - BOTTOM);
    }

    draw() {
      const width = this.svg.clientWidth, bottom = this.svg.clientHeight - BOTTOM;
      this.svg.replaceChildren(
        ...this.ticks.flatMap((tick) => [
          draw("path", { class: "gridline", d: `M${LEFT},${this.scaleY(tick)}H${width - RIGHT}` }),
          draw("text", { x: LEFT - 6, y: this.scaleY(tick) + 4, "text-anchor": "end" }, tick),
        ]),
        ...this.x.filter((x, index) => !index || this.scaleX(x) - this.scaleX(this.x[index - 1]) > 17).map((x) =>
          draw("text", { x: this.scaleX(x), y: bottom + 15, "text-anchor": "middle" }, +x.toFixed(1))),
        draw("text", { x: (LEFT + width - RIGHT) / 2, y: bottom + 31, "text-anchor": "middle" }, "removed pixels (%)"),
        ...this.shown.map((method) => this.curve(method)),
      );
      this.cross();
    }

    curve(method) {
      const { hue, dash, marker, kind } = look(method), values = this.lines[method], errors = this.errors[method];
      const known = values.map((_, index) => index).filter((index) => values[index] !== null);
      const point = (index, shift = 0) =>
        `${this.scaleX(this.x[index]).toFixed(1)},${this.scaleY(values[index] + shift * (errors[index] ?? 0)).toFixed(1)}`;
      const there = known.map((index) => point(index, 1)), back = known.map((index) => point(index, -1)).reverse();
      const group = draw("g", { "data-method": method },
        draw("path", { class: "band", d: `M${[...there, ...back].join("L")}Z` }),
        draw("path", { class: "curve", d: `M${known.map((index) => point(index)).join("L")}`, "stroke-dasharray": dash }),
        ...known.filter((index) => this.x[index]).map((index) =>
          draw("path", { class: kind, d: marker, transform: `translate(${point(index)})` })));
      group.style.setProperty("--hue", hue);
      return group;
    }

    emphasise(method) {
      for (const group of this.svg.querySelectorAll("g")) {
        group.classList.toggle("dim", method !== null && group.dataset.method !== method);
      }
    }

    point(event) {
      const box = this.svg.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      const far = this.x.map((value) => Math.abs(this.scaleX(value) - x));
      const at = far.indexOf(Math.min(...far));
      const distance = (method) => Math.abs(this.scaleY(this.lines[method][at] ?? Infinity) - y);
      this.read(at, this.shown.reduce((a, b) => (a !== null && distance(a) <= distance(b) ? a : b), null));
    }

    press(event) {
      const last = this.x.length - 1, at = this.at ?? 0;
      const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: last }[event.key];
      if (event.key === "Escape") this.read(null);
      if (to === undefined) return;
      event.preventDefault();
      this.read(Math.max(0, Math.min(last, to)));
    }

    ranking(at) {
      const sign = this.panel.higher ? -1 : 1, known = this.shown.filter((method) => this.lines[method][at] !== null);
      return known.sort((a, b) => sign * (this.lines[a][at] - this.lines[b][at]));
    }

    say(at) {
      const values = this.ranking(at).map((method) => `${method} ${this.lines[method][at].toFixed(1)}`).join(", ");
      this.svg.setAttribute("aria-valuenow", this.x[at]);
      this.svg.setAttribute("aria-valuetext", `${+this.x[at].toFixed(1)} % removed: ${values}`);
    }

    read(at, near = null) {
      this.at = at;
      this.readout.hidden = at === null || !this.shown.length;
      if (!this.readout.hidden) {
        this.say(at);
        this.readout.replaceChildren(make("table", {}, make("caption", {}, `${+this.x[at].toFixed(1)} % removed`),
          make("tbody", {}, ...this.ranking(at).map((method) =>
            make("tr", { class: method === near ? "near" : "" }, make("td", {}, swatch(method)),
              make("td", {}, method), make("td", {}, this.lines[method][at].toFixed(1)))))));
        const x = this.scaleX(this.x[at]), all = this.svg.clientWidth, wide = this.readout.offsetWidth;
        const left = x < all / 2 ? x + 12 : x - 12 - wide;  // beside the line, if there is room
        this.readout.style.left = `${Math.max(0, Math.min(all - wide, left))}px`;
      }
      this.cross();
    }

    cross() {
      this.svg.querySelector(".cross")?.remove();
      if (this.at === null) return;
      const x = this.scaleX(this.x[this.at]);
      this.svg.append(draw("path", { class: "cross", d: `M${x},${TOP}V${this.svg.clientHeight - BOTTOM}` }));
    }
  }

  if (data.curves) {
    const section = document.getElementById("curves"), hidden = new Set();
    const panels = data.curves.panels.map((panel) => new Panel(panel, hidden));
    section.querySelector(".panels").append(...panels.map((panel) => panel.figure));
    for (const method of Object.keys(data.curves.methods)) {
      const button = make("button", { type: "button", "aria-pressed": "true" }, swatch(method), method);
      const emphasise = (name) => panels.forEach((panel) => panel.emphasise(name));
      button.addEventListener("click", () => {
        hidden.delete(method) || hidden.add(method);
        button.setAttribute("aria-pressed", String(!hidden.has(method)));
        panels.forEach((panel) => { panel.draw(); panel.say(0); });
      });
      button.addEventListener("pointerenter", () => hidden.has(method) || emphasise(method));
      button.addEventListener("pointerleave", () => emphasise(null));
      section.querySelector(".legend").append(button);
    }
  }

  // Explorer

  if (data.views.length) {
    const find = (selector) => document.querySelector(`#explorer ${selector}`);
    const overlays = find(".overlays"), classes = find("#class"), opacity = find("#opacity"), looks = find("#look");
    const percent = (share) => `${(100 * share).toFixed(1)} %`;
    let view = data.views[0];

    const panel = (title, note, ...pictures) => make("figure", {},
      make("figcaption", {}, title, ...(note ? [make("small", {}, note)] : [])), make("div", { class: "stack" }, ...pictures));

    function overlay(method, shown) {
      const found = view.maps[method]?.[shown.index], under = make("img", { src: view.image, alt: "" });
      if (!found) return panel(method, "", under, make("p", { class: "missing" }, "no map of this class"));
      const alt = `${method}: explanation of ${shown.name} in ${view.file}`;
      return panel(method, found.note, under, make("img", { class: "map", src: found.src, alt, "data-method": method }));
    }

    function show() {
      const shown = view.classes[classes.selectedIndex];
      const chosen = [...document.querySelectorAll("#explorer .choices :checked")].map((box) => box.value);
      overlays.replaceChildren(panel("Image", "", make("img", { src: view.image, alt: `image ${view.file}` })),
        ...chosen.map((method) => overlay(method, shown)));
      find("#shown").textContent = `${view.file}, image ${data.views.indexOf(view) + 1} of ${data.views.length}; ` +
        `${shown.name} (${shown.index}) with confidence ${percent(shown.confidence)}`;
      paint();
    }

    function paint() {
      overlays.dataset.look = looks.value;
      overlays.style.setProperty("--opacity", opacity.value / 100);
      find("output").value = `${opacity.value} %`;
      for (const map of overlays.querySelectorAll(".map")) {
        map.style.filter = looks.value === "masked" ? "" : `url("#look-${looks.value}")`;
      }
    }

    function pick(number) {
      const before = view.classes[classes.selectedIndex]?.index;
      view = data.views[number];
      classes.replaceChildren(...view.classes.map(({ index, name, confidence }) =>
        make("option", { value: index }, `${name} (${index}) ${percent(confidence)}`)));
      classes.selectedIndex = Math.max(0, view.classes.findIndex(({ index }) => index === before));
      show();
    }

    data.views.forEach(({ file, image }, number) => {
      const radio = make("input", { type: "radio", name: "image", value: number, autocomplete: "off" });
      radio.checked = number === 0;
      radio.addEventListener("change", () => pick(number));
      find(".thumbnails").append(make("label", { title: file }, radio, make("img", { src: image, alt: file })));
    });
    for (const method of data.methods) {
      const box = make("input", { type: "checkbox", value: method, checked: "", autocomplete: "off" });
      box.addEventListener("change", show);
      find(".choices").append(make("label", {}, box, method));
    }
    for (const [button, checked] of [["#all", true], ["#none", false]]) {
      find(button).addEventListener("click", () => {
        for (const box of document.querySelectorAll("#explorer .choices input")) box.checked = checked;
        show();
      });
    }
    classes.addEventListener("change", show);
    opacity.addEventListener("input", paint);
    looks.addEventListener("change", () => {
      opacity.value = looks.value === "masked" ? 100 : opacity.value === "100" ? 50 : opacity.value;
      paint();
    });
    pick(0);
  }
})();
