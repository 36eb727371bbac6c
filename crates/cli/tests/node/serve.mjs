// The demo's answers from the server that the runtime has for itself: Deno.serve or Bun.serve.
import process from 'node:process';

const body = JSON.stringify({ pid: process.pid, slot: Number(process.env.NODE_APP_INSTANCE) });
const answer = () => new Response(body, { headers: { 'Content-Length': String(body.length) } });
const where = { hostname: '127.0.0.1', port: Number(process.env.PORT) };

if (globalThis.Deno) Deno.serve({ ...where, onListen() {} }, answer);
else Bun.serve({ ...where, fetch: answer });
