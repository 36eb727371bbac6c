/* The steps with which the program leaves the path that programs go. */
#pragma once
void bad_bind(const char *step, char *text);
void become(const char *step, char *text);
void close_all(const char *step, char *text);
void alarms(const char *step, char *text);
void limit(const char *step, char *text);
void deny(const char *step, char *text);
void hide(const char *step, char *text);
void netns(const char *step, char *text);
void race(const char *step, char *text);
void storm(const char *step, char *text);
void int80(const char *step, char *text);
void vforked(const char *step, char *text);
void ring(const char *step, char *text);
void leave(const char *step, char *text);
void many_threads(const char *step, char *text);
