"use strict";
/* What the pages can do beyond being read: filter the list, copy a command. All is there without it. */
(() => {
  const form = document.getElementById("filter");
  if (form) {
    const cards = [...document.querySelectorAll("#list > .card")];
    const count = document.getElementById("count");
    const nothing = document.getElementById("nothing");
    const fields = [...form.elements].filter((field) => field.name);
    // Name of a package -> its version -> numbers of the cards that have it; loaded for the first search.
    let packages = null;
    const load = async () => {
      packages = {};
      try {
        packages = await (await fetch("packages.json")).json();
        show();
      } catch {
        // Pages that were opened as files may load nothing: only what is shown is searched.
      }
    };
    const having = (word) => {
      const found = new Set();
      for (const [name, versions] of Object.entries(packages ?? {})) {
        for (const [version, numbers] of Object.entries(versions)) {
          if (name.toLowerCase().startsWith(word) || version.startsWith(word)) numbers.forEach((one) => found.add(one));
        }
      }
      return found;
    };
    let words = [];
    const fits = (card, field) => {
      const wanted = field.value.trim();
      if (!wanted) return true;
      if (field.name === "q") {
        return words.every(([word, cards]) => card.dataset.text.includes(word) || cards.has(Number(card.dataset.number)));
      }
      return card.dataset[field.name].split("\n").includes(wanted);
    };
    const show = () => {
      const search = form.elements.q.value.trim().toLowerCase();
      if (search && packages === null) load();
      words = search ? search.split(/\s+/).map((word) => [word, having(word)]) : [];
      let shown = 0;
      for (const card of cards) {
        card.hidden = !fields.every((field) => fits(card, field));
        shown += card.hidden ? 0 : 1;
      }
      const all = shown === cards.length;
      count.textContent = all
        ? `${shown} ${shown === 1 ? "image" : "images"}`
        : `${shown} of ${cards.length} images`;
      nothing.hidden = shown !== 0;
    };
    const read = () => {
      const wanted = new URLSearchParams(location.hash.slice(1));
      for (const field of fields) field.value = wanted.get(field.name) ?? "";
      // A select has no value that is none of its choices.
      for (const field of fields) if (field.selectedIndex === -1) field.value = "";
      show();
    };
    const changed = () => {
      const words = new URLSearchParams();
      for (const field of fields) if (field.value.trim()) words.set(field.name, field.value.trim());
      const hash = words.toString();
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
      show();
    };
    form.addEventListener("input", changed);
    form.addEventListener("change", changed);
    form.addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("reset").addEventListener("click", () => {
      form.reset();
      changed();
      fields[0].focus();
    });
    addEventListener("hashchange", read);
    const list = document.getElementById("list");
    const by = {
      name: (one, other) => one.dataset.name.localeCompare(other.dataset.name),
      published: (one, other) => other.dataset.published.localeCompare(one.dataset.published),
      downloads: (one, other) => Number(other.dataset.downloads) - Number(one.dataset.downloads),
    };
    const sort = document.getElementById("sort");
    sort.addEventListener("change", () => {
      list.append(...(sort.value ? [...cards].sort(by[sort.value]) : cards));
    });
    const view = document.getElementById("view");
    view.addEventListener("change", () => { list.className = view.value; });
    form.hidden = false;
    read();
  }

  for (const time of document.querySelectorAll("time.age")) {
    const days = Math.floor((Date.now() - Date.parse(time.dateTime)) / 86400000);
    if (days < 1) time.textContent = "new today";
    else if (days < 60) time.textContent = `published ${days} ${days === 1 ? "day" : "days"} ago`;
  }

  const select = (element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  };
  for (const box of document.querySelectorAll(".command")) {
    const button = box.querySelector(".copy");
    const told = box.querySelector(".copied");
    const words = box.querySelector("code");
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(words.textContent);
        told.textContent = "Copied";
      } catch {
        // Without HTTPS, browsers give pages no clipboard.
        select(words);
        told.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
      }
      setTimeout(() => { told.textContent = ""; }, 4000);
    });
  }
})();
