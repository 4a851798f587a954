"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const written = (value) => {
    const size = Math.abs(value);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    return String(Number(value.toPrecision(size < 0.001 ? 3 : 4)));
  };

  // The button of colours: as the system, light, dark.
  const theme = document.getElementById("theme");
  const themes = [["", "system"], ["light", "light"], ["dark", "dark"]];
  let chosen = 0;
  theme.hidden = false;
  theme.addEventListener("click", () => {
    chosen = (chosen + 1) % themes.length;
    document.documentElement.dataset.theme = themes[chosen][0];
    theme.querySelector("span").textContent = themes[chosen][1];
  });

  // Charts: coordinates of the drawing to values, and back.
  const charts = all(".chart").map((figure) => {
    const svg = figure.querySelector("svg");
    const { box: [left, top, right, bottom], x: [x0, x1], y: [y0, y1], log } = JSON.parse(figure.dataset.scale);
    const place = (images) => left + (right - left) * (images - x0) / (x1 - x0);
    const imagesAt = (x) => x0 + (x1 - x0) * (x - left) / (right - left);
    const valueAt = (y) => {
      const share = (bottom - y) / (bottom - top);
      return log ? y0 * (y1 / y0) ** share : y0 + (y1 - y0) * share;
    };
    const curves = all("[data-curve]", figure).map((item) => {
      const path = svg.querySelector(`#${item.dataset.curve} path:not(defs path)`);
      const points = [...(path ? path.getAttribute("d") : "").matchAll(/[ML] (\S+) (\S+)/g)]
        .map((match) => [Number(match[1]), Number(match[2])]);
      return { output: item.querySelector("output"), points };
    });
    const line = (name) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", "line");
      made.setAttribute("class", name);
      made.setAttribute("y1", top);
      made.setAttribute("y2", bottom);
      made.setAttribute("visibility", "hidden");
      svg.append(made);
      return made;
    };
    const show = (element, x) => {
      const inside = x >= left && x <= right;
      element.setAttribute("visibility", inside ? "visible" : "hidden");
      if (!inside) return;
      element.setAttribute("x1", x);
      element.setAttribute("x2", x);
    };
    const cursor = line("cursor"), moment = line("moment");
    const read = (event) => {
      const area = svg.getBoundingClientRect();
      const x = (event.clientX - area.left) * svg.viewBox.baseVal.width / area.width;
      show(cursor, x);
      if (x < left || x > right) return clear();
      for (const { output, points } of curves) {
        if (!points.length) continue;
        const near = points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
        const alone = curves.length === 1 ? ` at ${written(imagesAt(near[0]))}` : "";
        output.textContent = written(valueAt(near[1])) + alone;
      }
    };
    const clear = () => {
      cursor.setAttribute("visibility", "hidden");
      for (const { output } of curves) output.textContent = "";
    };
    svg.addEventListener("pointermove", read);
    svg.addEventListener("pointerdown", read);
    svg.addEventListener("pointerleave", clear);
    return { mark: (images) => show(moment, place(images)) };
  });

  // Previews: one slider for the pictures of each run.
  for (const player of all(".player")) {
    const screens = all("figure", player).map((figure) => ({
      image: figure.querySelector("img"),
      label: figure.querySelector("output"),
      frames: JSON.parse(figure.querySelector("script").textContent),
    }));
    const moments = [...new Set(screens.flatMap(({ frames }) => frames.map((f) => f.images)))].sort((a, b) => a - b);
    if (moments.length < 2) continue;
    const controls = player.querySelector(".controls");
    const slider = controls.querySelector("input"), play = controls.querySelector(".play");
    const show = () => {
      const now = moments[slider.value];
      for (const { image, label, frames } of screens) {
        const away = (frame) => Math.abs(frame.images - now);
        const frame = frames.reduce((a, b) => (away(b) <= away(a) ? b : a));
        const told = `${frame.images.toLocaleString("en")} images seen`;
        if (image.getAttribute("src") !== frame.source) image.src = frame.source;
        image.alt = `Samples of ${image.dataset.name} after ${told}`;
        label.textContent = told;
      }
      slider.setAttribute("aria-valuetext", `${now.toLocaleString("en")} images seen`);
      for (const chart of charts) chart.mark(now);
    };
    let timer = 0;
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      play.textContent = "▶";
      play.setAttribute("aria-label", "Play");
    };
    const start = () => {
      if (Number(slider.value) === moments.length - 1) slider.value = 0;
      play.textContent = "❚❚";
      play.setAttribute("aria-label", "Pause");
      show();
      timer = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        show();
        if (Number(slider.value) === moments.length - 1) stop();
      }, Math.min(700, Math.max(120, 6000 / moments.length)));
    };
    slider.max = moments.length - 1;
    slider.value = slider.max;
    slider.addEventListener("input", () => { stop(); show(); });
    play.addEventListener("click", () => (timer ? stop() : start()));
    controls.hidden = false;
    show();
  }

  // On paper everything is open.
  addEventListener("beforeprint", () => all("details").forEach((one) => { one.open = true; }));
})();
