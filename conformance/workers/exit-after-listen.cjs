'use strict';
// Dies while the primary answers it.
require('node:net').createServer().listen(0, '127.0.0.1');
process.nextTick(() => process.exit(0));
