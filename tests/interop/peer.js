// Node's `ws` and a browser, as peers of creche's; peer.py is the same for libraries for Python.
//
//     node peer.js client SCENARIO URL
//     node peer.js server [CERTIFICATE]
//
// A browser runs it in a page /page?SCENARIO of the server that it connects to, and tells the
// result by a request for /result?MESSAGE.
"use strict";

const inNode = typeof process !== "undefined";
const Socket = inNode ? require("ws") : WebSocket;

const MESSAGES = ["text é☃🐍", new Uint8Array([98, 0, 255]), "", new Uint8Array()];
const LARGE = ["é".repeat(500000), new Uint8Array(1000000).fill(0xa5)];
const PIECES = ["é", "☃".repeat(1000), "", "🐍"];
const SUBPROTOCOL = "creche.test";

class Peer {
  constructor(socket) {
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    this.messages = [];
    this.wake = () => {};
    this.closed = new Promise((resolve) => {
      socket.addEventListener("close", ({ code, reason, wasClean }) => {
        resolve({ code, reason, wasClean });
        this.wake();
      });
    });
    socket.addEventListener("error", () => {});
    socket.addEventListener("message", ({ data }) => {
      this.messages.push(typeof data === "string" ? data : new Uint8Array(data));
      this.wake();
    });
  }

  async opened() {
    await new Promise((resolve, reject) => {
      this.socket.addEventListener("open", resolve);
      this.socket.addEventListener("error", (e) => reject(new Error(`not opened: ${e.message}`)));
    });
  }

  // The next message; undefined when there is none any more.
  async receive() {
    while (!this.messages.length && this.socket.readyState < Socket.CLOSING) {
      await new Promise((resolve) => { this.wake = resolve; });
    }
    return this.messages.shift();
  }

  async ping() {
    const pong = new Promise((resolve) => this.socket.once("pong", resolve));
    this.socket.ping();
    await pong;
  }

  // In fragments; whole from a browser, which sends none.
  sendPieces(pieces) {
    if (!inNode) {
      this.socket.send(pieces.join(""));
      return;
    }
    pieces.forEach((piece, i) => this.socket.send(piece, { fin: i === pieces.length - 1 }));
  }
}

function equal(a, b) {
  if (String(a) !== String(b) || typeof a !== typeof b) {
    throw new Error(`${String(a).slice(0, 100)} is not ${String(b).slice(0, 100)}`);
  }
}

async function echoes(peer, messages) {
  for (const message of messages) {
    peer.socket.send(message);
    equal(await peer.receive(), message);
  }
}

const SCENARIOS = {
  messages: (peer) => echoes(peer, MESSAGES),
  large: (peer) => echoes(peer, LARGE),
  TLS: (peer) => echoes(peer, MESSAGES),
  async compression(peer) {
    equal(peer.socket.extensions.split(";")[0], "permessage-deflate");
    await echoes(peer, [...MESSAGES, ...LARGE, "again"]);
  },
  async fragments(peer) {
    peer.sendPieces(PIECES);
    equal(await peer.receive(), PIECES.join(""));
  },
  async subprotocol(peer) {
    equal(peer.socket.protocol, SUBPROTOCOL);
  },
  async ping(peer) {
    await peer.ping();
    peer.socket.send("ping me");
    equal(await peer.receive(), "answered");
  },
  async close(peer) {
    peer.socket.close(4000, "done é");
    equal((await peer.closed).wasClean, true);
  },
  async closed(peer) {
    peer.socket.send("close");
    equal(await peer.receive(), undefined);
    const { code, reason } = await peer.closed;
    equal(`${code} ${reason}`, "4001 bye é");
  },
};

async function runClient(scenario, url) {
  const subprotocols = scenario === "subprotocol" ? ["other", SUBPROTOCOL] : [];
  const peer = new Peer(new Socket(url, subprotocols));
  await peer.opened();
  await SCENARIOS[scenario](peer);
  peer.socket.close();
}

async function answer(peer, path) {
  for (let message; (message = await peer.receive()) !== undefined; ) {
    if (path === "/ws/fragments") {
      peer.sendPieces([message.slice(0, 1), message.slice(1), ""]);
    } else if (path === "/ws/ping") {
      await peer.ping();
      peer.socket.send("answered");
    } else if (path === "/ws/closed") {
      peer.socket.close(4001, "bye é");
    } else {
      peer.socket.send(message);
    }
  }
  const { code, reason } = await peer.closed;
  console.log(`closed ${code} ${reason}`);
}

function runServer(certificate) {
  const pem = certificate && require("fs").readFileSync(certificate);
  const server = pem
    ? require("https").createServer({ cert: pem, key: pem })
    : require("http").createServer();
  const options = {
    server,
    perMessageDeflate: true,
    handleProtocols: (offered) => offered.has(SUBPROTOCOL) && SUBPROTOCOL,
  };
  new Socket.Server(options).on("connection", (socket, request) => {
    answer(new Peer(socket), request.url);
  });
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
  process.stdin.on("end", () => process.exit()).resume();
}

async function runPage() {
  const scenario = location.search.slice(1);
  const url = `${location.origin.replace("http", "ws")}/ws/${scenario}`;
  const result = await runClient(scenario, url).then(() => "ok", String);
  await fetch(`/result?${encodeURIComponent(result)}`);
}

if (!inNode) {
  runPage();
} else if (process.argv[2] === "client") {
  runClient(...process.argv.slice(3)).catch((error) => {
    console.error(error);
    process.exit(1);
  });
} else {
  runServer(process.argv[3]);
}
