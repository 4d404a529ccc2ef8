"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const EXAMPLES = ["Explain gravity to a child", "Write a function that reverses a list", "Count from one to thirty in words"];
  const FATES = {
    accepted: "proposed by the draft, accepted",
    bonus: "the target’s, after a whole draft was right",
    recovered: "the target’s, where the draft was wrong",
    plain: "decoded plainly",
  };
  const state = { model: null, cascades: [], messages: [], busy: null, view: "chat" };

  // ---- small pieces of page ----
  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") node.className = value; else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }
  function draw(tag, attributes) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  }
  const memory = {
    get(name) { try { return sessionStorage.getItem(name); } catch { return null; } },
    set(name, value) { try { sessionStorage.setItem(name, value); } catch { /* private window */ } },
  };
  const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
  const isPlain = (cascade) => !cascade.includes(">");

  function complain(text, { key = false } = {}) {
    $("notice-text").textContent = text;
    $("key-form").hidden = !key;
    $("notice").hidden = false;
    if (key) $("key").focus();
  }

  // ---- the server ----
  async function ask(path, body, signal) {
    const headers = { "content-type": "application/json" };
    const key = memory.get("halfbyte-key");
    if (key) headers.authorization = `Bearer ${key}`;
    let answer;
    try {
      answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server cannot be reached. Is halfbyte serve still running?");
    }
    if (answer.ok) return answer;
    let told = null;
    try { told = (await answer.json()).error; } catch { /* not ours */ }
    const error = new Error(told ? told.message : `The server answered ${answer.status}.`);
    error.status = answer.status;
    error.retry = answer.headers.get("retry-after");
    throw error;
  }

  /** Events of a stream, decoded; ends at the end mark. */
  async function* events(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let held = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("The stream ended before the answer did.");
      held += value;
      const parts = held.split("\n\n");
      held = parts.pop();
      for (const part of parts) {
        if (!part.startsWith("data: ")) continue;
        if (part === "data: [DONE]") return;
        const event = JSON.parse(part.slice(6));
        if (event.error) throw new Error(event.error.message);
        yield event;
      }
    }
  }

  // ---- one answer: its tokens, when they came, what follows from their fates ----
  class Run {
    constructor(cascade) {
      this.cascade = cascade;
      this.asked = performance.now();
      this.first = null; // ms to the first token
      this.steps = []; // {at, pieces, fates, logprobs}; `at`: ms since asked
      this.counts = { accepted: 0, bonus: 0, recovered: 0, plain: 0 };
      this.proposed = []; // by position
      this.accepted = [];
      this.inCycle = 0;
      this.text = "";
      this.statistics = null;
    }
    get tokens() { return Object.values(this.counts).reduce((a, b) => a + b, 0); }
    get cycles() { return this.tokens - this.counts.accepted; }
    get tau() { return this.cycles ? this.tokens / this.cycles : 0; }
    get last() { return this.steps.length ? this.steps[this.steps.length - 1].at : 0; }
    /** Tokens a second after the first step, which waited for the prompt. */
    get rate() {
      if (this.steps.length < 2) return 0;
      return (this.tokens - this.steps[0].pieces.length) / ((this.last - this.steps[0].at) / 1000);
    }
    get alpha() { return this.proposed.map((n, i) => this.accepted[i] / n); }
    add(choice) {
      const told = choice.halfbyte;
      if (told.statistics) this.statistics = told.statistics;
      this.text += choice.delta.content || "";
      if (!told.fates.length) return null;
      const at = performance.now() - this.asked;
      if (this.first === null) this.first = at;
      const logprobs = ((choice.logprobs && choice.logprobs.content) || []).map((entry) => entry.logprob);
      const step = { at, pieces: told.pieces, fates: told.fates, logprobs };
      this.steps.push(step);
      for (const fate of told.fates) this.judge(fate);
      return step;
    }
    /** A recovered token stands where a proposal was wrong; a bonus token judges none. */
    judge(fate) {
      this.counts[fate] += 1;
      const judged = fate === "accepted" || fate === "recovered";
      if (judged) {
        this.proposed[this.inCycle] = (this.proposed[this.inCycle] || 0) + 1;
        this.accepted[this.inCycle] = (this.accepted[this.inCycle] || 0) + (fate === "accepted" ? 1 : 0);
      }
      this.inCycle = fate === "accepted" ? this.inCycle + 1 : 0;
    }
  }

  function number(id, fallback) {
    const value = Number.parseFloat($(id).value);
    return Number.isFinite(value) ? value : fallback;
  }

  async function answerWith(cascade, messages, signal, onStep) {
    const run = new Run(cascade);
    const body = {
      messages, cascade, stream: true, return_fates: true, logprobs: true,
      temperature: number("temperature", 0), top_p: number("top-p", 1),
      seed: Math.trunc(number("seed", 1)), max_tokens: Math.trunc(number("max-tokens", 256)),
    };
    const answer = await ask("v1/chat/completions", body, signal);
    for await (const event of events(answer)) {
      for (const choice of event.choices) {
        if (!choice.halfbyte) continue;
        const step = run.add(choice);
        if (step) onStep(run, step);
      }
    }
    return run;
  }

  /** One step's tokens as a pill: what one forward of the target gave. */
  function showStep(into, step) {
    const shown = document.createDocumentFragment();
    step.pieces.forEach((piece, i) => {
      if (!piece) return;
      const fate = step.fates[i];
      const ends = fate !== "accepted" || i === step.pieces.length - 1;
      const starts = i === 0 || step.fates[i - 1] !== "accepted";
      // White space at the ends of a pill stands outside it, or a line break would leave slivers.
      const before = starts ? piece.match(/^\s*/)[0] : "";
      const after = ends ? piece.slice(before.length).match(/\s*$/)[0] : "";
      const body = piece.slice(before.length, piece.length - after.length);
      if (before) shown.append(before);
      if (body) shown.append(make("span", {
        class: `t ${fate}${starts ? " head" : ""}${ends ? " tail" : ""}`, title: FATES[fate],
      }, body));
      if (after) shown.append(after);
    });
    into.append(shown);
  }

  // ---- measurements ----
  function showMeasurements(run, live) {
    $("rate").textContent = run && run.rate ? run.rate.toFixed(run.rate < 100 ? 1 : 0) : "–";
    $("tau").textContent = run && run.cycles ? run.tau.toFixed(2) : "–";
    $("count").textContent = run ? String(run.tokens) : "–";
    $("first").textContent = run && run.first !== null ? seconds(run.first) : "–";
    showSpark(run);
    showAlpha(run);
    $("legend").replaceChildren(...Object.entries(FATES).map(([fate, meaning]) =>
      make("li", {}, make("span", { class: `t ${fate}` }, run ? String(run.counts[fate]) : "0"), make("span", {}, meaning))));
    if (live) $("talk").scrollTop = $("talk").scrollHeight;
  }
  function showSpark(run) {
    const points = [];
    if (run && run.steps.length > 2) {
      const start = run.steps[0].at, length = run.last - start, bins = Math.min(60, run.steps.length - 1);
      const counts = new Array(bins).fill(0);
      for (const step of run.steps.slice(1)) {
        counts[Math.min(bins - 1, Math.floor(((step.at - start) / length) * bins))] += step.pieces.length;
      }
      const smooth = counts.map((_, i) => {
        const near = counts.slice(Math.max(0, i - 3), i + 4);
        return near.reduce((a, b) => a + b, 0) / near.length;
      });
      const top = Math.max(...smooth);
      smooth.forEach((value, i) => points.push(`${((i / Math.max(1, bins - 1)) * 240).toFixed(1)},${(46 - (value / top) * 40).toFixed(1)}`));
    }
    const line = points.length ? `M${points.join("L")}` : "";
    $("spark").replaceChildren(draw("path", { class: "area", d: line ? `${line}L240,48L0,48Z` : "" }), draw("path", { class: "line", d: line }));
  }
  function showAlpha(run) {
    const alpha = run ? run.alpha : [];
    const box = $("alpha");
    if (!alpha.length) {
      box.replaceChildren(make("span", { class: "empty" }, run && run.tokens ? "nothing was proposed" : "shown while an answer is decoded"));
      box.setAttribute("aria-label", "No proposals");
      return;
    }
    while (box.children.length > alpha.length || (box.firstChild && box.firstChild.className === "empty")) box.lastChild.remove();
    alpha.forEach((value, i) => {
      let column = box.children[i];
      if (!column) {
        column = make("div", { class: "column" }, make("span", { class: "value" }), make("div", { class: "fill" }), make("span", {}, String(i + 1)));
        box.append(column);
      }
      column.children[0].textContent = String(Math.round(value * 100));
      column.children[1].style.height = `${Math.round(value * 66)}%`;
    });
    box.setAttribute("aria-label", alpha.map((value, i) => `position ${i + 1}: ${Math.round(value * 100)} percent`).join(", "));
  }

  // ---- chat ----
  function chosenCascade() {
    const plain = document.querySelector('input[name="mode"]:checked').value === "plain";
    return plain ? "none" : $("cascade").value;
  }
  async function chat(prompt, signal) {
    $("welcome").hidden = true;
    state.messages.push({ role: "user", content: prompt });
    const talk = $("talk");
    talk.append(make("div", { class: "turn user" }, prompt));
    const text = make("div", { class: "text caret" });
    const byline = make("p", { class: "byline" }, "reading the prompt…");
    talk.append(make("article", { class: "turn", "aria-label": "Answer" }, text, byline));
    talk.scrollTop = talk.scrollHeight;
    const cascade = chosenCascade();
    let run = null;
    try {
      run = await answerWith(cascade, state.messages, signal, (now, step) => {
        run = now;
        showStep(text, step);
        byline.textContent = `${shownName(cascade)} · ${now.tokens} tokens`;
        showMeasurements(now, true);
      });
      showMeasurements(run, true);
      byline.textContent = `${shownName(cascade)} · ${run.tokens} tokens · ${run.rate.toFixed(1)} tokens/s · τ ${run.tau.toFixed(2)}`;
    } catch (error) {
      byline.textContent = error.name === "AbortError" ? "stopped" : "this answer failed";
      if (error.name !== "AbortError") {
        if (!$("prompt").value) { $("prompt").value = prompt; fit(); }
        throw error;
      }
    } finally {
      text.classList.remove("caret");
      if (run && run.text) state.messages.push({ role: "assistant", content: run.text });
      else { state.messages.pop(); }
    }
  }
  const shownName = (cascade) => (cascade === "none" ? `${plainName()} (plain)` : cascade);
  const plainName = () => state.cascades.find(isPlain) || "plain";
  function clearChat() {
    state.messages = [];
    for (const turn of [...$("talk").querySelectorAll(".turn")]) turn.remove();
    $("welcome").hidden = false;
    showMeasurements(null, false);
    $("prompt").focus();
  }

  // ---- race ----
  const lanes = [];
  function makeLanes() {
    const fast = state.cascades.find((c) => !isPlain(c)) || state.cascades[0];
    [fast, plainName()].forEach((cascade, i) => {
      const choose = make("select", { "aria-label": `Cascade of lane ${i + 1}` }, ...state.cascades.map((c) => make("option", {}, c)));
      choose.value = cascade;
      const speed = make("span", { class: "speed" }, "–");
      const bar = make("i");
      const text = make("div", { class: "text", tabindex: "0", "aria-label": `Answer of lane ${i + 1}` });
      const byline = make("p", { class: "byline" });
      const box = make("article", { class: i ? "lane second" : "lane" }, make("header", {}, choose, speed), make("div", { class: "track" }, bar), text, byline);
      lanes.push({ choose, speed, bar, text, byline, box, run: null });
      $("lanes").append(box);
    });
  }
  function showSpeed(lane, run) {
    lane.speed.replaceChildren(run.rate ? run.rate.toFixed(run.rate < 100 ? 1 : 0) : "–", make("small", {}, " tok/s"));
  }
  async function race(prompt, signal) {
    const most = Math.trunc(number("max-tokens", 256));
    $("verdict").replaceChildren(make("span", {}, `“${prompt.slice(0, 120)}”`));
    for (const lane of lanes) {
      lane.run = null;
      lane.text.replaceChildren();
      lane.byline.textContent = "waiting for its turn";
      lane.speed.textContent = "–";
      lane.bar.style.width = "0";
    }
    for (const lane of lanes) {
      lane.text.classList.add("caret");
      lane.byline.textContent = "reading the prompt…";
      try {
        lane.run = await answerWith(lane.choose.value, [{ role: "user", content: prompt }], signal, (run, step) => {
          showStep(lane.text, step);
          lane.text.scrollTop = lane.text.scrollHeight;
          lane.bar.style.width = `${Math.min(100, (run.tokens / most) * 100)}%`;
          showSpeed(lane, run);
          lane.byline.textContent = `${run.tokens} tokens · τ ${run.tau.toFixed(2)}`;
        });
        finishLane(lane);
      } catch (error) {
        lane.byline.textContent = error.name === "AbortError" ? "stopped" : "failed";
        throw error;
      } finally {
        lane.text.classList.remove("caret");
      }
    }
    showVerdict();
    await replay(signal);
  }
  function finishLane(lane) {
    const { run } = lane;
    showSpeed(lane, run);
    const alpha = run.alpha.map((a) => a.toFixed(2).replace(/^0/, "")).join(" ");
    lane.byline.textContent = `${run.tokens} tokens in ${seconds(run.last)} · τ ${run.tau.toFixed(2)}${alpha ? ` · accepted by position ${alpha}` : ""}`;
  }
  function firstDifference(a, b) {
    const flat = (run) => run.steps.flatMap((s) => s.pieces.map((p, i) => `${p}\u0000${s.logprobs[i]}`));
    const [x, y] = [flat(a), flat(b)];
    const at = x.findIndex((token, i) => token !== y[i]);
    return at >= 0 ? at : x.length === y.length ? -1 : x.length;
  }
  function showVerdict() {
    const [a, b] = lanes;
    const times = a.run.rate / b.run.rate;
    const faster = times >= 1 ? a : b;
    const parts = [make("strong", {}, `${Math.max(times, 1 / times).toFixed(2)}×`), make("span", {}, `${faster.choose.value} decoded faster`)];
    const target = (lane) => lane.choose.value.split(">").pop().trim();
    const at = firstDifference(a.run, b.run);
    if (at < 0) parts.push(make("span", { class: "same" }, `✓ ${a.run.tokens} tokens and logprobs identical`));
    else if (target(a) !== target(b)) parts.push(make("span", {}, `different targets: the texts part at token ${at + 1}`));
    else parts.push(make("span", { class: "differ" }, `✗ the outputs differ at token ${at + 1}`));
    const again = make("button", { class: "quiet", type: "button" }, "Replay");
    again.addEventListener("click", () => run((signal) => replay(signal)));
    parts.push(again);
    $("verdict").replaceChildren(...parts);
  }
  /** Both lanes at the pace they were measured at, the first token of each at zero. */
  async function replay(signal) {
    const longest = Math.max(...lanes.map((lane) => lane.run.last - lane.run.steps[0].at));
    const pace = Math.max(1, longest / 12000); // no longer than twelve seconds
    for (const lane of lanes) { lane.text.replaceChildren(); lane.bar.style.width = "0"; lane.next = 0; lane.text.classList.add("caret"); }
    const start = performance.now();
    await new Promise((resolve) => {
      const tick = () => {
        const now = (performance.now() - start) * pace;
        let open = false;
        for (const lane of lanes) {
          const { steps } = lane.run, origin = steps[0].at, limit = signal.aborted ? Infinity : now;
          while (lane.next < steps.length && steps[lane.next].at - origin <= limit) showStep(lane.text, steps[lane.next++]);
          lane.bar.style.width = `${(lane.next / steps.length) * 100}%`;
          lane.text.scrollTop = lane.text.scrollHeight;
          if (lane.next < steps.length) open = true; else lane.text.classList.remove("caret");
        }
        if (open) requestAnimationFrame(tick); else resolve();
      };
      tick();
    });
  }

  // ---- one thing at a time ----
  async function run(work) {
    if (state.busy) return;
    $("notice").hidden = true;
    state.busy = new AbortController();
    $("send").textContent = "Stop";
    try {
      await work(state.busy.signal);
    } catch (error) {
      if (error.name !== "AbortError") {
        const wait = error.retry ? ` Try again in ${error.retry} s.` : "";
        complain(error.message + wait, { key: error.status === 401 });
      }
    } finally {
      state.busy = null;
      $("send").textContent = state.view === "race" ? "Race" : "Send";
    }
  }
  function submit() {
    if (state.busy) { state.busy.abort(); return; }
    const prompt = $("prompt").value.trim();
    if (!prompt) { $("prompt").focus(); return; }
    if (!state.model) { connect(); return; }
    if (state.view === "chat") { $("prompt").value = ""; fit(); }
    run((signal) => (state.view === "race" ? race(prompt, signal) : chat(prompt, signal)));
  }
  function show(view) {
    if (state.busy) state.busy.abort();
    state.view = view;
    for (const name of ["chat", "race"]) {
      const chosen = name === view;
      $(`view-${name}`).hidden = !chosen;
      $(`tab-${name}`).setAttribute("aria-selected", String(chosen));
      $(`tab-${name}`).tabIndex = chosen ? 0 : -1;
    }
    $("mode").hidden = $("cascade-field").hidden = $("clear").hidden = view === "race";
    if (view === "chat") showMode();
    $("send").textContent = view === "race" ? "Race" : "Send";
    $("prompt").placeholder = view === "race" ? "What both should answer" : "Ask something";
    if (view === "race" && !$("prompt").value) $("prompt").value = EXAMPLES[0];
    fit();
  }
  function showMode() {
    const plain = document.querySelector('input[name="mode"]:checked').value === "plain";
    $("cascade-field").hidden = plain || state.view === "race";
  }
  function fit() {
    const box = $("prompt");
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
  }

  async function connect() {
    try {
      const model = (await (await ask("v1/models")).json()).data[0];
      state.model = model;
      state.cascades = model.halfbyte.cascades;
      $("model").textContent = `${model.id} · ${model.max_model_len} tokens of context`;
      document.title = `${model.id} · Halfbyte`;
      const drafting = state.cascades.filter((c) => !isPlain(c));
      $("cascade").replaceChildren(...(drafting.length ? drafting : state.cascades).map((c) => make("option", {}, c)));
      if (!drafting.length) document.querySelector('input[value="plain"]').checked = true;
      if (!lanes.length) makeLanes();
      showMode();
      $("notice").hidden = true;
    } catch (error) {
      $("model").textContent = "not connected";
      complain(error.message, { key: error.status === 401 });
    }
  }

  // ---- what a person does ----
  $("composer").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  $("prompt").addEventListener("input", fit);
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); if (!state.busy) submit(); }
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && state.busy) state.busy.abort(); });
  $("clear").addEventListener("click", () => { if (state.busy) state.busy.abort(); clearChat(); });
  $("mode").addEventListener("change", showMode);
  $("notice-close").addEventListener("click", () => { $("notice").hidden = true; });
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    memory.set("halfbyte-key", $("key").value.trim());
    $("key").value = "";
    connect();
  });
  for (const [own, other] of [["chat", "race"], ["race", "chat"]]) {
    $(`tab-${own}`).addEventListener("click", () => show(own));
    $(`tab-${own}`).addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") { show(other); $(`tab-${other}`).focus(); }
    });
  }
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  for (const text of EXAMPLES) {
    const button = make("button", { type: "button" }, text);
    button.addEventListener("click", () => { $("prompt").value = text; submit(); });
    $("examples").append(button);
  }
  showMeasurements(null, false);
  connect();
  $("prompt").focus();
})();
