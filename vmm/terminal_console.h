// The user's terminal as a guest's console: keys go to the guest as they are, and what it writes to the screen.
#ifndef QUIRE_VMM_TERMINAL_CONSOLE_H_
#define QUIRE_VMM_TERMINAL_CONSOLE_H_

#include <termios.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace quire {

// While it lives the terminal is in raw mode: Ctrl-C goes to the guest too. Ctrl-A x asks to quit, Ctrl-A twice is one
// for the guest, Ctrl-A h says so.
class TerminalConsole {
 public:
  // Reads keys from `in`, a terminal, and writes to `out`; both stay the caller's. `input` is called on a thread of
  // this one's. Errors: FailedPrecondition, `in` is no terminal.
  static absl::StatusOr<std::unique_ptr<TerminalConsole>> Open(int in, int out,
                                                               std::function<void(absl::string_view)> input);
  // Puts the terminal back as it was.
  ~TerminalConsole();
  TerminalConsole(const TerminalConsole&) = delete;
  TerminalConsole& operator=(const TerminalConsole&) = delete;

  // What the guest writes; from any thread.
  void Write(absl::string_view bytes);
  // Whether the user has asked to quit.
  bool wants_to_quit() const { return quit_.load(std::memory_order_acquire); }

 private:
  TerminalConsole(int in, int out, const termios& before, UniqueFd stop, std::function<void(absl::string_view)> input);

  void ReadKeys();
  void Take(absl::string_view keys);
  void TakeCommand(char key);

  const int in_;
  const int out_;
  const termios before_;
  const UniqueFd stop_;  // readable when the thread is to end
  const std::function<void(absl::string_view)> input_;
  bool command_ = false;  // the last key was Ctrl-A
  std::atomic<bool> quit_ = false;
  std::thread thread_;
};

}  // namespace quire

#endif  // QUIRE_VMM_TERMINAL_CONSOLE_H_
