import { Module } from '@nestjs/common';
import { AppController } from './app.controller.js';
import { UsersService } from './users.service.js';

@Module({ controllers: [AppController], providers: [UsersService] })
export class AppModule {}
