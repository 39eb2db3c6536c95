"use strict";
// Addresses are written out, because a page that was opened with a password in its address may not ask for relative ones.
const here = location.origin + location.pathname + location.search;
const OF_SENDING = {
  "message.sent": "Your mail was sent.",
  "message.failed": "Your mail could not be sent.",
  "message.unknown": "Nobody knows yet whether your mail was sent.",
};
let reading = false, changedMeanwhile = false;

// Take what changes on this page from the page as the server shows it now.
async function refresh() {
  if (reading) { changedMeanwhile = true; return; }
  reading = true;
  try {
    const answer = await fetch(here);
    if (answer.status === 404) { say("This is not in the mailbox any more."); return; }
    if (!answer.ok) return;
    const now = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) part.replaceWith(now.getElementById(part.id));
  } finally {
    reading = false;
    if (changedMeanwhile) { changedMeanwhile = false; refresh(); }
  }
}

function say(words) { document.getElementById("status").textContent = words; }

// The browser connects again by itself, and says after which event it stands.
const events = new EventSource(`${location.origin}/events?after=${document.body.dataset.position}`);
events.onmessage = (event) => {
  const words = OF_SENDING[JSON.parse(event.data).type];
  if (words) say(words);
  else refresh();
};
// Events after this page's position are kept no more.
events.addEventListener("stale", () => { events.close(); location.reload(); });
