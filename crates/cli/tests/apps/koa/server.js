'use strict';

const { Readable } = require('node:stream');
const { json } = require('node:stream/consumers');
const Koa = require('koa');

const app = new Koa();

// Errors become answers here; koa's own report on stderr is not wanted.
app.use(async (ctx, next) => {
  ctx.set('X-Worker', String(process.pid));
  try {
    await next();
  } catch (error) {
    ctx.status = error instanceof SyntaxError ? 400 : (error.status ?? 500);
    ctx.body = { error: error.message };
  }
});

app.use(async (ctx, next) => {
  if (ctx.method !== 'POST' || ctx.path !== '/echo') return next();
  ctx.status = 201;
  ctx.body = await json(ctx.req);
});

app.use(async (ctx) => {
  const user = /^\/users\/(\w+)$/.exec(ctx.path);
  if (ctx.path === '/') {
    ctx.body = { hello: 'koa', pid: process.pid };
  } else if (user) {
    ctx.body = { id: user[1], verbose: ctx.query.verbose };
  } else if (ctx.path === '/stream') {
    ctx.body = Readable.from(Array.from({ length: 200 }, (_, n) => `line ${n + 1}\n`));
  } else if (ctx.path === '/error') {
    ctx.throw(500, 'on purpose');
  }
});

app.listen(process.env.PORT, '127.0.0.1');
