"use strict";
/* What the pages can do beyond being read: search, filter and sort the list, copy a command. All is there without it. */
(() => {
  const DAY = 86400000;
  const daysSince = (moment) => Math.floor((Date.now() - Date.parse(moment)) / DAY);
  const NEW_DAYS = 14;

  // Say how old templates are; what is on the page is the date.
  const tellAge = (element) => {
    for (const time of element.querySelectorAll("time.age")) {
      const days = daysSince(time.dateTime);
      const word = time.textContent.split(" ")[0];
      if (days === 0) time.textContent = `${word} today`;
      else if (days > 0 && days < 60) time.textContent = `${word} ${days} ${days === 1 ? "day" : "days"} ago`;
      const badge = time.closest(".badges").querySelector("[hidden]");
      if (badge) badge.hidden = days >= NEW_DAYS;
    }
  };

  tellAge(document);

  const list = document.getElementById("list");
  const form = document.getElementById("filter");
  if (form) {
    const cards = [...list.children];
    // Of each template: the values of its data attributes, and its item of the list.
    let entries = cards.map((item) => ({ ...item.dataset, item }));
    const step = Math.max(cards.length, 100);
    let room = step;
    const itemOf = (entry) => {
      if (!entry.item) {
        // The same markup as on the pages, made by the same template, which has escaped it.
        entry.item = document.createElement("li");
        entry.item.className = "card";
        entry.item.innerHTML = entry.html;
        tellAge(entry.item);
      }
      return entry.item;
    };

    const count = document.getElementById("count");
    const nothing = document.getElementById("nothing");
    const more = document.getElementById("more");
    const sort = document.getElementById("sort");
    const view = document.getElementById("view");
    const fields = [...form.elements].filter((field) => field.name);

    // Name of a package -> its version -> rows that have it, as ranges; loaded for the first search.
    let packages = null;
    const load = async () => {
      packages = [];
      try {
        const found = await (await fetch("packages.json")).json();
        packages = Object.entries(found).map(([name, versions]) => [name.toLowerCase(), Object.entries(versions)]);
        show();
      } catch {
        // Pages that were opened as files may load nothing: only what is shown is searched.
      }
    };
    // The rows that have a package: "nginx 1.22" is a package in a version, "nginx" any, "1.22" any package.
    const having = (word, before) => {
      const found = new Set();
      const isVersion = /^\d/.test(word);
      for (const [name, versions] of packages ?? []) {
        const named = name.startsWith(word);
        if (!named && !(isVersion && name.startsWith(before))) continue;
        for (const [version, ranges] of versions) {
          if (!named && !version.startsWith(word) && !version.replace(/^\d+:/, "").startsWith(word)) continue;
          for (let at = 0; at < ranges.length; at += 2) {
            for (let row = ranges[at]; row < ranges[at] + ranges[at + 1]; row += 1) found.add(row);
          }
        }
      }
      return found;
    };
    const wantedWords = (search) => {
      const words = search.split(/\s+/);
      return words.map((word, at) => [word, having(word, words[at - 1] ?? "")]);
    };
    const stateOf = (entry) => entry.state.split("\n")
      .filter((word) => word !== "new" || daysSince(entry.published) < NEW_DAYS);
    const valuesOf = (entry, name) => (name === "state" ? stateOf(entry) : entry[name].split("\n"));
    const by = {
      name: (one, other) => one.name.localeCompare(other.name),
      published: (one, other) => other.published.localeCompare(one.published),
      downloads: (one, other) => Number(other.downloads) - Number(one.downloads),
    };

    const show = () => {
      const search = form.elements.q.value.trim().toLowerCase();
      if (search && packages === null) load();
      const words = search ? wantedWords(search) : [];
      const chosen = fields.filter((field) => field.name !== "q" && field.value);
      const found = entries.filter((entry, row) => (
        chosen.every((field) => valuesOf(entry, field.name).includes(field.value))
        && words.every(([word, rows]) => entry.text.includes(word) || rows.has(row))
      ));
      if (sort.value) found.sort(by[sort.value]);
      list.replaceChildren(...found.slice(0, room).map(itemOf));
      more.hidden = found.length <= room;
      nothing.hidden = found.length !== 0;
      const all = found.length === entries.length;
      count.textContent = all
        ? `${found.length} ${found.length === 1 ? "image" : "images"}`
        : `${found.length} of ${entries.length} images`;
    };
    const read = () => {
      const wanted = new URLSearchParams(location.hash.slice(1));
      for (const field of fields) field.value = wanted.get(field.name) ?? "";
      // A select has no value that is none of its choices.
      for (const field of fields) if (field.selectedIndex === -1) field.value = "";
      room = step;
      show();
    };
    const changed = () => {
      const words = new URLSearchParams();
      for (const field of fields) if (field.value.trim()) words.set(field.name, field.value.trim());
      const hash = words.toString();
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
      room = step;
      show();
    };
    form.addEventListener("input", (event) => { if (event.target.name) changed(); });
    form.addEventListener("change", (event) => { if (event.target !== view) changed(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    view.addEventListener("change", () => { list.className = view.value; });
    more.querySelector("button").addEventListener("click", () => {
      const first = room;
      room += step;
      show();
      list.children[first].querySelector("a").focus();
    });
    document.getElementById("reset").addEventListener("click", () => {
      form.reset();
      changed();
      fields[0].focus();
    });
    addEventListener("hashchange", read);

    const loadAll = async (address) => {
      try {
        const all = await (await fetch(address)).json();
        entries = all.map((entry, row) => ({ ...entry, item: cards[row] }));
        document.getElementById("pages").hidden = true;
        show();
      } catch {
        // Opened as a file: this page is searched, and the links to the others stay.
      }
    };
    if (list.dataset.more) loadAll(list.dataset.more);
    form.hidden = false;
    read();
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
