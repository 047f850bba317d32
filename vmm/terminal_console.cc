#include "vmm/terminal_console.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/memory/memory.h"
#include "base/thread.h"
#include "vmm/files.h"

namespace quire {
namespace {

constexpr char kEscape = '\x01';  // Ctrl-A

}  // namespace

absl::StatusOr<std::unique_ptr<TerminalConsole>> TerminalConsole::Open(int in, int out,
                                                                       std::function<void(absl::string_view)> input) {
  termios before;
  if (tcgetattr(in, &before) != 0) {
    return absl::FailedPreconditionError(
        "a guest's console can only be a terminal where there is one: write --console=lines or the path of a file");
  }
  UniqueFd stop(eventfd(0, EFD_CLOEXEC));
  if (!stop.valid()) return absl::ErrnoToStatus(errno, "opening the terminal (eventfd)");
  termios raw = before;
  cfmakeraw(&raw);
  if (tcsetattr(in, TCSADRAIN, &raw) != 0) return absl::ErrnoToStatus(errno, "putting the terminal into raw mode");
  return absl::WrapUnique(new TerminalConsole(in, out, before, std::move(stop), std::move(input)));
}

TerminalConsole::TerminalConsole(int in, int out, const termios& before, UniqueFd stop,
                                 std::function<void(absl::string_view)> input)
    : in_(in), out_(out), before_(before), stop_(std::move(stop)), input_(std::move(input)), thread_([this] {
        ReadKeys();
      }) {}

TerminalConsole::~TerminalConsole() {
  eventfd_write(stop_.get(), 1);
  thread_.join();
  tcsetattr(in_, TCSADRAIN, &before_);
}

// What a terminal that has gone cannot take is lost.
void TerminalConsole::Write(absl::string_view bytes) { (void)WriteAll(out_, bytes); }

void TerminalConsole::ReadKeys() {
  SetThreadName("terminal");
  char keys[256];
  for (;;) {
    pollfd sources[] = {{.fd = in_, .events = POLLIN, .revents = 0},
                        {.fd = stop_.get(), .events = POLLIN, .revents = 0}};
    if (poll(sources, 2, -1) < 0 && errno != EINTR) return;
    if (sources[1].revents != 0) return;
    if (sources[0].revents == 0) continue;
    const ssize_t got = read(in_, keys, sizeof keys);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return;  // the terminal has gone
    Take(absl::string_view(keys, static_cast<size_t>(got)));
  }
}

void TerminalConsole::Take(absl::string_view keys) {
  while (!keys.empty()) {
    if (command_) {
      command_ = false;
      TakeCommand(keys[0]);
      keys.remove_prefix(1);
      continue;
    }
    const size_t plain = keys.find(kEscape);
    if (plain != 0) input_(keys.substr(0, plain));
    if (plain == absl::string_view::npos) return;
    command_ = true;
    keys.remove_prefix(plain + 1);
  }
}

void TerminalConsole::TakeCommand(char key) {
  if (key == kEscape) return input_(absl::string_view(&kEscape, 1));
  if (key == 'x') return quit_.store(true, std::memory_order_release);
  Write("\r\nquire: Ctrl-A x quits, Ctrl-A Ctrl-A is a Ctrl-A for the guest\r\n");
}

}  // namespace quire
