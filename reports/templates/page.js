"use strict";
// What a reader can ask of the page: filters, sorting, the runs behind a number, figures in full size. Without
// scripts everything is still there to be read.
(() => {
  const runs = JSON.parse(document.getElementById("runs").textContent);
  const make = (tag, text = "", attributes = {}) => {
    const node = document.createElement(tag);
    node.textContent = text;
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };

  // --- filters: by what the page itself has ---
  const items = [...document.querySelectorAll("[data-item]")];
  const rows = [...document.querySelectorAll("tr[data-labels]")];
  const labels = new Map(rows.map((row) => [row, JSON.parse(row.dataset.labels)]));
  const choices = new Map();
  const offer = (name, value) => {
    if (!value || value === "—") return;
    if (!choices.has(name)) choices.set(name, new Set());
    choices.get(name).add(value);
  };
  document.querySelectorAll("section[data-scale]").forEach((section) => {
    offer("Scale", section.dataset.scale);
    section.dataset.data.split(", ").forEach((data) => offer("Data", data));
  });
  items.forEach((item) => offer("Sweep", item.dataset.sweep));
  labels.forEach((of) => Object.entries(of).forEach(([name, value]) => {
    if (["Backbone", "Method", "backbone", "method"].includes(name)) offer(name[0].toUpperCase() + name.slice(1), value);
  }));
  const chosen = new Map(new URLSearchParams(location.hash.startsWith("#?") ? location.hash.slice(2) : ""));
  const bar = document.getElementById("filters");
  const count = make("output", "", { "aria-live": "polite" });
  const of = (row, name) => labels.get(row)[name] ?? labels.get(row)[name.toLowerCase()];
  const apply = () => {
    let seen = 0;
    rows.forEach((row) => {
      row.hidden = ["Backbone", "Method"].some((name) => {
        const label = of(row, name);
        return chosen.get(name) && label !== undefined && label !== chosen.get(name);
      });
      seen += row.hidden ? 0 : 1;
    });
    items.forEach((item) => {
      const own = [...item.querySelectorAll("tr[data-labels]")];
      const other = chosen.get("Sweep") && item.dataset.sweep && item.dataset.sweep !== chosen.get("Sweep");
      item.hidden = Boolean(other) || (own.length > 0 && own.every((row) => row.hidden));
    });
    document.querySelectorAll("section[data-scale]").forEach((section) => {
      section.hidden = (chosen.get("Scale") && section.dataset.scale !== chosen.get("Scale"))
        || (chosen.get("Data") && !section.dataset.data.split(", ").includes(chosen.get("Data")));
    });
    const asked = [...chosen].filter(([, value]) => value);
    count.textContent = asked.length ? `${seen} of ${rows.length} rows` : "";
    const hash = asked.length ? `#?${new URLSearchParams(asked)}` : location.hash.startsWith("#?") ? "#" : null;
    if (hash !== null) history.replaceState(null, "", hash);
  };
  ["Scale", "Data", "Sweep", "Backbone", "Method"].forEach((name) => {
    const values = [...(choices.get(name) ?? [])];
    if (values.length < 2) return;
    const select = make("select");
    select.append(make("option", "all", { value: "" }), ...values.map((value) => make("option", value, { value })));
    select.value = values.includes(chosen.get(name)) ? chosen.get(name) : "";
    select.addEventListener("change", () => { chosen.set(name, select.value); apply(); });
    const label = make("label", `${name} `);
    label.append(select);
    bar.append(label);
  });
  if (bar.children.length) {
    const reset = make("button", "show all", { type: "button" });
    reset.addEventListener("click", () => {
      chosen.clear();
      bar.querySelectorAll("select").forEach((select) => { select.value = ""; });
      apply();
    });
    bar.append(reset, count);
    bar.hidden = false;
  }
  apply();

  // --- sorting: ascending, descending, as it was ---
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const text = cell.textContent.trim();
    return text === "—" || text === "" || text.startsWith("— ") ? null : Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  document.querySelectorAll("figure.table table").forEach((table) => {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = [...table.tHead.rows].at(-1).cells;
    [...heads].forEach((head, column) => {
      const button = make("button", head.textContent, { type: "button", class: "sort" });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")] ?? "ascending";
        [...heads].forEach((other) => other.removeAttribute("aria-sort"));
        const sorted = [...original];
        if (next !== "none") {
          head.setAttribute("aria-sort", next);
          sorted.sort((one, other) => {
            const [a, b] = [key(one, column), key(other, column)];
            if (a === null || b === null) return (a === null) - (b === null);  // holes last
            return next === "ascending" ? compare(a, b) : compare(b, a);
          });
        }
        table.classList.toggle("sorted", next !== "none");
        body.append(...sorted);
      });
    });
  });

  // --- the runs behind a number ---
  const dialog = document.getElementById("asked");
  const content = dialog.querySelector(".content");
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  const curve = (points, name) => {
    const [width, height] = [260, 70];
    const xs = points.map((p) => p[0]);
    const ys = points.map((p) => p[1]);
    const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const place = ([x, y]) => `${((x - left) / (right - left || 1)) * width},${height - ((y - low) / (high - low || 1)) * height}`;
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `-2 -2 ${width + 4} ${height + 4}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${name}: ${ys[0]} to ${ys.at(-1)}`);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("points", points.map(place).join(" "));
    svg.append(line);
    const figure = make("figure", "", { class: "curve" });
    figure.append(make("figcaption", `${name}, epochs ${left} to ${right}: ${ys[0]} → ${ys.at(-1)}`), svg);
    return figure;
  };
  const known = (signature) => runs[signature.split("+")[0]] ?? runs[signature];
  // The row that a row is a change to: the same but for the method, which is the baseline, or else the first.
  const reference = (row) => {
    const table = row.closest("table");
    const others = [...table.tBodies[0].querySelectorAll("tr[data-labels]")];
    const like = others.find((other) => Object.entries(labels.get(other)).every(([name, value]) => (
      name.toLowerCase() === "method" ? value === "baseline" : value === labels.get(row)[name])));
    return like ?? others[0];
  };
  const changed = (run, from) => {
    const keys = [...new Set([...Object.keys(run.config ?? {}), ...Object.keys(from.config ?? {})])].sort();
    const lines = keys.filter((key) => run.config?.[key] !== from.config?.[key]);
    return lines.map((key) => `${key}: ${from.config?.[key] ?? "absent"} → ${run.config?.[key] ?? "absent"}`).join("\n");
  };
  const told = (signature, base) => {
    const run = known(signature);
    const box = make("details");
    box.append(make("summary", `run ${signature}${run ? `, seed ${run.seed}` : ""}`));
    if (!run) {
      box.append(make("p", "Nothing more of it is on this page."));
      return box;
    }
    const list = make("dl");
    const say = (name, value) => { if (value) list.append(make("dt", name), make("dd", value)); };
    say("Code", run.code);
    say("Device", run.device);
    say("Started", run.started);
    say("Training", run.seconds ? `${(run.seconds / 60).toFixed(1)} minutes` : "");
    const from = base.map(known).find((other) => other?.seed === run.seed);
    if (from && from !== run) say("From the baseline's config", changed(run, from) || "the same");
    say("Again", run.again);
    box.append(list);
    if (run.loss) box.append(curve(run.loss, "training loss"));
    if (run.validation?.length > 1) box.append(curve(run.validation, "validation top-1"));
    if (run.log) {
      const log = make("details");
      log.append(make("summary", "end of its log"), make("pre", run.log.join("\n")));
      box.append(log);
    }
    if (!run.loss && !run.log) box.append(make("p", "Its curves and log are in the folder of the runs.", { class: "muted" }));
    return box;
  };
  const open = (title, nodes) => {
    content.replaceChildren(make("h2", title, { id: "asked-title", tabindex: "-1" }), ...nodes);
    dialog.showModal();
    content.scrollTop = 0;
  };
  document.addEventListener("click", (event) => {
    const number = event.target.closest("button.number");
    const picture = event.target.closest("button.picture");
    if (number) {
      const cell = number.closest("td");
      const row = cell.closest("tr");
      const where = Object.values(labels.get(row)).join(", ");
      const about = make("p", cell.title, { class: "about" });
      const signatures = (cell.dataset.runs ?? row.dataset.runs).split(" ").filter(Boolean);
      const base = reference(row).dataset.runs.split(" ").filter(Boolean);
      const boxes = signatures.map((signature) => told(signature, base));
      if (boxes.length) boxes[0].open = true;
      const column = [...cell.closest("table").tHead.rows].at(-1).cells[cell.cellIndex].dataset.column;
      open(`${where}: ${number.textContent}`, [make("p", column), about, ...boxes]);
    } else if (picture) {
      const image = picture.querySelector("img").cloneNode();
      image.removeAttribute("width");
      const scroll = make("div", "", { class: "full", tabindex: "0" });
      scroll.append(image);
      open(picture.dataset.title, [scroll]);
    }
  });

  // --- wide tables: row labels stay, and it shows that there is more ---
  const settle = () => document.querySelectorAll(".scroll").forEach((box) => {
    box.classList.toggle("more", box.scrollWidth > box.clientWidth + 1);
    box.tabIndex = box.scrollWidth > box.clientWidth + 1 ? 0 : -1;
  });
  addEventListener("resize", settle);
  settle();
})();
