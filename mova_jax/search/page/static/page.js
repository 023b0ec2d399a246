// The page of the search. Texts of files and people enter it by textContent only.

const [form, list, message, state] = ["form", "answers", "message", "status"].map((id) =>
  document.getElementById(id));
const text = document.getElementById("text");
const like = document.getElementById("like");
const LARGEST = 64; // MB of a file that is sent as a question, as the server has it
let file = null; // the question, in place of a text
const dark = matchMedia("(prefers-color-scheme: dark)");
let answers = [];
let current = -1;
let asked = 0;

function make(tag, name, content) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (content !== undefined) node.textContent = content;
  return node;
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${two(m)}:${two(s)}`;
}

function say(words, isError = false) {
  message.textContent = words;
  message.classList.toggle("error", isError);
}

async function search() {
  const number = ++asked;
  const question = Object.fromEntries(new FormData(form));
  question.top = Number(question.top) || 10;
  say("Searching …");
  try {
    const reply = await (file ? askLike(question) : ask(question));
    const found = await reply.json();
    if (number !== asked) return; // a later question was asked meanwhile
    if (!reply.ok) return say(found.error, true);
    show(found);
  } catch {
    if (number === asked) say("The server does not answer.", true);
  }
}

function ask(question) {
  return fetch("api/search", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(question),
  });
}

function askLike({ text: _, ...conditions }) {
  return fetch(`api/like?${new URLSearchParams(conditions)}`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: file,
  });
}

// A picture or a video that was chosen, dropped or pasted is asked with at once.
function take(chosen) {
  if (!chosen) return;
  if (chosen.size > LARGEST * 2 ** 20) return say(`Choose a file of at most ${LARGEST} MB.`, true);
  file = chosen;
  text.value = "";
  like.hidden = false;
  like.querySelector("span").textContent = file.name;
  preview(file);
  search();
}

async function preview(chosen) {
  const canvas = like.querySelector("canvas");
  canvas.hidden = true; // also of a video, and of a picture that this browser does not know
  const picture = await createImageBitmap(chosen).catch(() => null);
  if (!picture || chosen !== file) return;
  canvas.width = Math.max(1, Math.round(canvas.height * Math.min(4, picture.width / picture.height)));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  canvas.hidden = false;
}

function forget() {
  file = null;
  like.hidden = true;
}

function show(found) {
  answers = found.answers;
  current = -1;
  list.replaceChildren(...answers.map(article));
  drawAll();
  const seconds = found.seconds.toFixed(2);
  say(answers.length
    ? `${answers.length} best, in ${seconds} s`
    : "No video passes the filters.");
}

function article(answer, place) {
  const item = make("li");
  const title = make("h2");
  title.append(make("span", "rank", place + 1), make("span", "", answer.name));
  const about = [answer.folder, clock(answer.duration), `score ${answer.score.toFixed(3)}`];
  if (answer.copies.length) about.push(`${answer.copies.length} near-copies`);
  const line = make("p", "about", about.join(" · "));
  line.title = answer.copies.join("\n");
  const rows = make("div", "rows");
  rows.append(strip(answer, place));
  answer.moments.forEach((moment, row) => rows.append(timeline(answer, place, moment, row)));
  item.append(title, line, rows);
  item.addEventListener("click", () => select(place, false));
  return item;
}

function strip(answer, place) {
  const row = make("div", "row");
  const box = make("div", "strip");
  const image = make("img");
  image.alt = `Pictures of ${answer.name}, from its start to its end`;
  image.addEventListener("error", () => row.remove());
  image.src = `thumbs/${encodeURIComponent(answer.id)}`;
  box.append(image);
  row.append(box);
  playOnClick(box, answer, place);
  return row;
}

function timeline(answer, place, moment, row) {
  const label = make("div", "sentence", moment.text);
  label.title = moment.text;
  const box = make("div", "heat");
  const best = make("div", "best");
  const share = (seconds) => 100 * Math.min(1, seconds / (answer.duration || 1));
  best.style.left = `${share(moment.start)}%`;
  best.style.right = `${100 - share(moment.end)}%`;
  box.append(make("canvas"), best);
  playOnClick(box, answer, place);
  const button = make("button", "play", `${clock(moment.start)} – ${clock(moment.end)}`);
  button.type = "button";
  button.setAttribute("aria-label", `Play sentence ${row + 1} from ${clock(moment.start)}`);
  button.addEventListener("click", () => play(place, moment.start));
  const line = make("div", "row");
  line.append(label, box, button);
  return line;
}

function playOnClick(box, answer, place) {
  box.addEventListener("click", (event) => {
    const area = box.getBoundingClientRect();
    play(place, (answer.duration * (event.clientX - area.left)) / area.width);
  });
}

// Heat of a sentence is on one scale in all videos, so that they can be compared.
function drawAll() {
  const style = getComputedStyle(document.documentElement);
  const [cold, hot] = ["--cold", "--hot"].map((name) => style.getPropertyValue(name).trim());
  const rows = answers[0]?.moments.length ?? 0;
  for (let row = 0; row < rows; row++) {
    const all = answers.flatMap((answer) => answer.moments[row].heat);
    const low = all.reduce((a, b) => Math.min(a, b), Infinity);
    const high = all.reduce((a, b) => Math.max(a, b), -Infinity);
    answers.forEach((answer, place) => {
      const canvas = list.children[place].querySelectorAll("canvas")[row];
      draw(canvas, answer.moments[row].heat, low, high, cold, hot);
    });
  }
}

function draw(canvas, heat, low, high, cold, hot) {
  canvas.width = heat.length;
  canvas.height = 1;
  const pen = canvas.getContext("2d");
  pen.fillStyle = cold;
  pen.fillRect(0, 0, heat.length, 1);
  pen.fillStyle = hot;
  heat.forEach((value, column) => {
    pen.globalAlpha = high > low ? ((value - low) / (high - low)) ** 2 : 0;
    pen.fillRect(column, 0, 1, 1);
  });
}

function play(place, seconds) {
  select(place, false);
  const item = list.children[place];
  let video = item.querySelector("video");
  if (item.querySelector(".player") && !video) return; // this file is not played here
  if (!video) {
    close();
    video = make("video");
    video.controls = true;
    video.preload = "metadata";
    const player = make("div", "player");
    player.append(video);
    item.insertBefore(player, item.querySelector(".rows"));
    const id = encodeURIComponent(answers[place].id);
    video.addEventListener("error", () => {
      if (video.dataset.repackaged) return cannotPlay(item, player);
      video.dataset.repackaged = true;
      repackage(item, player, video, `playable/${id}`);
    });
    video.src = `video/${id}`;
  }
  video.dataset.from = seconds;
  start(video, seconds);
  item.scrollIntoView({ block: "nearest" });
}

function start(video, seconds) {
  video.currentTime = seconds;
  video.play().catch(() => {}); // an error is shown by its own event
}

// The same picture in another container; sound that it cannot hold is encoded, which takes a while.
async function repackage(item, player, video, url) {
  const words = make("p", "", "This browser does not know the container: the file is repackaged.");
  player.append(words);
  let reason = "";
  try {
    const first = await fetch(url, { headers: { Range: "bytes=0-0" } });
    if (!first.ok) reason = (await first.json()).error;
    words.textContent = first.headers.get("sound-left-out") || "";
  } catch {
    reason = "the server does not answer";
  }
  if (!player.isConnected) return; // it was closed in the meantime
  if (reason) return cannotPlay(item, player, reason);
  words.textContent &&= `It is shown without its sound: ${words.textContent}.`;
  video.src = url;
  start(video, video.dataset.from);
}

function cannotPlay(item, player, reason = "") {
  item.classList.add("pictures");
  const why = reason && ` (${reason})`;
  const words = `This browser cannot play the file${why}, so here are its pictures, from start to end.`;
  player.replaceChildren(make("p", "", words));
}

function close() {
  document.querySelectorAll(".player").forEach((player) => player.remove());
  document.querySelectorAll(".pictures").forEach((item) => item.classList.remove("pictures"));
}

function select(place, scroll = true) {
  if (!answers.length) return;
  current = Math.max(0, Math.min(answers.length - 1, place));
  [...list.children].forEach((item, i) => item.classList.toggle("current", i === current));
  if (scroll) list.children[current].scrollIntoView({ block: "nearest" });
}

const KEYS = {
  "/": () => text.focus(),
  j: () => select(current + 1),
  k: () => select(current - 1),
  Escape: close,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  const typing = event.target.matches("textarea, input");
  if (typing && event.key === "Escape") return event.target.blur();
  if (typing) return;
  const moment = /^[1-9]$/.test(event.key) && answers[Math.max(0, current)]?.moments[event.key - 1];
  if (moment) play(Math.max(0, current), moment.start);
  else if (Object.hasOwn(KEYS, event.key)) KEYS[event.key]();
  else return;
  event.preventDefault();
});

text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  text.blur();
  if (text.value.trim()) forget();
  search();
});

const chooser = document.getElementById("file");
document.getElementById("choose").addEventListener("click", () => chooser.click());
chooser.addEventListener("change", () => {
  take(chooser.files[0]);
  chooser.value = ""; // so that the same file can be chosen again
});
like.querySelector("button").addEventListener("click", forget);
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files[0]);
});

dark.addEventListener("change", drawAll);

async function status() {
  const bar = document.getElementById("indexing");
  try {
    const found = await (await fetch("api/status")).json();
    const hours = (found.seconds / 3600).toFixed(found.seconds < 36000 ? 1 : 0);
    const words = [`${found.videos.toLocaleString()} videos, ${hours} hours`];
    if (found.missing) words.push(`files of ${found.missing.toLocaleString()} are missing`);
    if (found.warming_up) words.push("warming up");
    bar.hidden = !found.indexing;
    if (found.indexing) {
      const { done, files } = found.indexing;
      words.push(`indexing ${done.toLocaleString()} of ${files.toLocaleString()} files`);
      [bar.max, bar.value] = [files || 1, done];
    }
    state.textContent = words.join(" · ");
  } catch {
    state.textContent = "";
    bar.hidden = true;
  }
  setTimeout(status, document.hidden ? 60000 : 5000);
}

status();
