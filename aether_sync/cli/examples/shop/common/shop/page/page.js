// The orders, and what happens to them while it happens.

const LOOK_EVERY = 5_000; // milliseconds between two questions for the shop's health
const PATIENCE = 4_000; // milliseconds for its answer
const EVENTS_SHOWN = 200;

const STATES = {
    live: "Live",
    lost: "Connection lost. Trying again …",
    away: "A part of the shop is away. What is new comes when it is back.",
};

const element = (id) => document.getElementById(id);
const copyOf = (id) => element(id).content.firstElementChild.cloneNode(true);

let source; // the events
let last; // the id of the newest one that is shown
let health = "live"; // what the last question has found

// -- what is shown

function showState() {
    const state = source?.readyState === EventSource.OPEN ? health : "lost";
    document.body.dataset.state = state;
    element("state").textContent = STATES[state];
}

function rowOf({number, customer, items, article, status}) {
    const row = copyOf("order");
    row.id = `order-${number}`;
    row.dataset.status = status;
    row.querySelector(".what").textContent = `${items} × ${article}`;
    row.querySelector(".who").textContent = `${customer}, no. ${number}`;
    row.querySelector(".ship").onclick = () => ship(number, row);
    return row;
}

function showEvent(id, timestamp, text) {
    const item = copyOf("event");
    item.dataset.id = id;
    item.querySelector("b").textContent = id;
    item.querySelector("span").textContent = text;
    item.querySelector("time").textContent = new Date(timestamp).toLocaleTimeString();
    element("events").prepend(item);
    element("events").children[EVENTS_SHOWN]?.remove();
}

const happened = {
    OrderPlaced(id, {actorId, timestamp, data}) {
        const number = actorId.replace("order-", "");
        element("orders").prepend(rowOf({number, ...data, status: "placed"}));
        showEvent(id, timestamp, `${data.customer} ordered ${data.items} × ${data.article}`);
    },
    OrderShipped(id, {actorId, timestamp}) {
        const row = element(actorId);
        if (row) row.dataset.status = "shipped";
        showEvent(id, timestamp, `No. ${actorId.replace("order-", "")} was shipped`);
    },
};

// -- what comes

async function begin() {
    try {
        const {orders, after} = await (await fetch("/orders")).json();
        element("orders").replaceChildren(...orders.map(rowOf));
        element("events").replaceChildren();
        listen(after);
    } catch {
        beginLater();
    }
}

function beginLater() {
    showState();
    setTimeout(begin, 2_000);
}

function listen(after) {
    source?.close();
    last = after;
    source = new EventSource(`/events?after=${after}`);
    source.onopen = () => {
        health = "live";
        showState();
        look();
    };
    source.onerror = () => {
        if (source.readyState === EventSource.CLOSED) beginLater(); // it was refused: what is shown is of another past
        else showState(); // it comes back by itself, to where it was
    };
    for (const [type, show] of Object.entries(happened)) {
        source.addEventListener(type, (event) => {
            last = event.lastEventId;
            show(last, JSON.parse(event.data));
        });
    }
}

async function look() {
    const answer = await fetch("/healthz", {signal: AbortSignal.timeout(PATIENCE)}).catch(() => null);
    const found = !answer ? "lost" : answer.ok ? "live" : "away";
    const isBack = answer && health === "lost";
    health = found;
    if (isBack && source?.readyState === EventSource.OPEN) listen(last); // a dead connection may look open for minutes
    showState();
}

// -- what is sent

async function send(path, options) {
    try {
        const answer = await fetch(path, {method: "POST", signal: AbortSignal.timeout(2 * PATIENCE), ...options});
        return answer.ok ? "" : await answer.text();
    } catch {
        return "No answer has come. Try again.";
    }
}

let order; // what is sent again, until there is an answer, is the same order
const newOrder = () => ({number: Math.ceil(Math.random() * 999_999_999), key: `${Math.random()}`.slice(2)});

async function place(submit) {
    submit.preventDefault();
    order ??= newOrder();
    const form = element("form");
    const [headers, body] = [{"Idempotency-Key": order.key}, new URLSearchParams(new FormData(form))];
    const problem = await sendBy(form.querySelector("button"), `/orders/${order.number}`, {headers, body});
    if (!problem) {
        order = null;
        form.reset();
    }
}

const ship = (number, row) => sendBy(row.querySelector(".ship"), `/orders/${number}/ship`);

async function sendBy(button, path, options) {
    button.disabled = true;
    const problem = await send(path, options);
    button.disabled = false;
    element("answer").textContent = problem;
    return problem;
}

element("form").onsubmit = place;
setInterval(look, LOOK_EVERY);
begin();
