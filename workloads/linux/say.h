// How the programs of Linux guests say things: lines of "quire: key=value ..." on standard error, which is the console.
// No part of the C++ library is needed.
#ifndef QUIRE_WORKLOADS_LINUX_SAY_H_
#define QUIRE_WORKLOADS_LINUX_SAY_H_

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

namespace quire {

// In one write, so that the lines of several processes on one console stay whole. What is longer than a line is cut
// off.
[[gnu::format(printf, 1, 2)]] inline void Say(const char* format, ...) {
  char text[240];
  const int head = snprintf(text, sizeof text, "quire: ");
  va_list values;
  va_start(values, format);
  const int length = head + vsnprintf(text + head, sizeof text - head - 1, format, values);
  va_end(values);
  const size_t end = length < static_cast<int>(sizeof text) - 1 ? length : sizeof text - 2;
  text[end] = '\n';
  if (write(STDERR_FILENO, text, end + 1) < 0) return;  // there is nobody to tell
}

// For a system call that failed. Ends the program with status 1.
[[noreturn]] inline void Fail(const char* what) {
  Say("failure why=%s (%s)", what, strerror(errno));
  _exit(1);
}

}  // namespace quire

#endif  // QUIRE_WORKLOADS_LINUX_SAY_H_
