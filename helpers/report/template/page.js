// Everything here is an extra: without a script all code can be unfolded, all tables read and all links followed.
(() => {
  // one button for all code; its label stays, its state says what holds
  const fold = document.getElementById("fold");
  const code = [...document.querySelectorAll("details.code")];
  if (fold) {
    fold.hidden = false;
    fold.addEventListener("click", () => {
      const open = fold.getAttribute("aria-pressed") !== "true";
      code.forEach((cell) => { cell.open = open; });
      fold.setAttribute("aria-pressed", String(open));
    });
  }

  // only what scrolls is a stop of the Tab key
  const boxes = [...document.querySelectorAll(".scroll, pre, math[display=block]")];
  const measure = () => boxes.forEach((box) => {
    const scrolls = box.scrollWidth > box.clientWidth + 1;
    box.classList.toggle("scrolls", scrolls);
    if (scrolls) box.tabIndex = 0; else box.removeAttribute("tabindex");
  });
  const watch = new ResizeObserver(measure);
  boxes.forEach((box) => watch.observe(box));

  // print shows what is folded, code excepted
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open]):not(.code):not(.toc)")];
    opened.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((part) => { part.open = false; }));

  // contents: folded on a narrow screen, the part in view marked
  const toc = document.querySelector("details.toc");
  if (toc && matchMedia("(max-width: 68rem)").matches) toc.open = false;
  const links = new Map([...document.querySelectorAll(".toc nav a")].map((a) => [decodeURIComponent(a.hash.slice(1)), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((a) => a.removeAttribute("aria-current"));
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "0px 0px -75% 0px" });
  links.forEach((_, id) => { const heading = document.getElementById(id); if (heading) seen.observe(heading); });

  // the explorer of the first page
  const form = document.getElementById("explorer");
  if (!form) return;
  const parts = JSON.parse(document.getElementById("stops").textContent);
  const slider = document.getElementById("stop");
  const chosen = document.getElementById("chosen");
  const drawings = [...document.querySelectorAll(".drawings")];
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const orders = {
    sparsity: (a, b) => mean(a.sparsity) - mean(b.sparsity),
    macs: (a, b) => mean(b.macs) - mean(a.macs),
  };
  let stops = [];
  const show = () => {
    const stop = stops[slider.value];
    const words = [];
    slider.setAttribute("aria-valuetext", stop.name);
    form.querySelector(".name").textContent = stop.name;
    form.querySelectorAll("[data-field]").forEach((cell) => {
      cell.textContent = stop.values[cell.dataset.dataset]?.[cell.dataset.field] ?? "–";
    });
    document.querySelectorAll("circle.chosen").forEach((ring) => {
      const at = stop.values[ring.dataset.dataset]?.at;
      ring.setAttribute("visibility", at ? "visible" : "hidden");
      if (at) { ring.setAttribute("cx", at[0]); ring.setAttribute("cy", at[1]); }
    });
    for (const drawing of parts[form.elements.part.value].drawings) {
      const value = stop.values[drawing.dataset];
      if (value) words.push(`${drawing.name}: file ${value.file}, time ${value.time}, top-1 ${value.top1}, multiply-adds ${value.macs}.`);
    }
    chosen.textContent = words.join(" ");
  };
  const arrange = () => {
    const before = stops[slider.value];
    const part = form.elements.part.value;
    stops = [...parts[part].stops].sort(orders[form.elements.order.value]);
    slider.max = stops.length - 1;
    slider.value = Math.max(0, stops.indexOf(before));
    drawings.forEach((drawing) => { drawing.hidden = drawing.dataset.part !== part; });
    show();
  };
  slider.addEventListener("input", show);
  form.addEventListener("change", (event) => { if (event.target !== slider) arrange(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  document.querySelector(".everything").open = false;
  arrange();
})();
