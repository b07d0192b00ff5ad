"use strict";
// Asks for the page's content again and again, and shows it when it has changed.
const main = document.querySelector("main"), state = document.getElementById("state");
let shown = "", failing = false;

async function refresh() {
  try {
    const answer = await fetch("/content", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const content = await answer.text();
    if (content !== shown) replace(content);
    if (failing) state.textContent = "live again";
    failing = false;
  } catch {
    if (!failing) state.textContent = "the server has stopped; this is its last state";
    failing = true;
  }
  setTimeout(refresh, document.hidden ? 10000 : 2000);
}

function replace(content) { // and leave the keyboard where it was
  const place = [...main.querySelectorAll("[tabindex]")].indexOf(document.activeElement);
  main.innerHTML = shown = content;
  if (place >= 0) main.querySelectorAll("[tabindex]")[place]?.focus({ preventScroll: true });
}

refresh();
