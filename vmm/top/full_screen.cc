#include "vmm/top/full_screen.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace quire {
namespace {

// To the other screen and back: xterm's control sequences, which all of today's terminals know.
constexpr absl::string_view kEnter = "\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J";
constexpr absl::string_view kLeave = "\x1b[?25h\x1b[?1049l";

// A terminal that is gone takes nothing.
void Write(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    bytes.remove_prefix(static_cast<size_t>(count));
  }
}

sigset_t Held() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGPIPE, SIGWINCH}) sigaddset(&set, number);
  return set;
}

}  // namespace

absl::StatusOr<std::unique_ptr<FullScreen>> FullScreen::Open(int in, int out) {
  termios before;
  if (isatty(out) != 1 || tcgetattr(in, &before) != 0) {
    return absl::FailedPreconditionError("there is no terminal to be drawn on");
  }
  const sigset_t held = Held();
  UniqueFd signals(signalfd(-1, &held, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.valid()) return absl::ErrnoToStatus(errno, "taking signals (signalfd)");
  sigset_t signals_before;
  sigprocmask(SIG_BLOCK, &held, &signals_before);
  auto screen = absl::WrapUnique(new FullScreen(in, out, before, signals_before, std::move(signals)));
  screen->Enter();
  return screen;
}

FullScreen::FullScreen(int in, int out, const termios& before, const sigset_t& signals_before, UniqueFd signals)
    : in_(in), out_(out), before_(before), signals_before_(signals_before), signals_(std::move(signals)) {}

FullScreen::~FullScreen() {
  Leave();
  // It ends the process now, unless that ignores it.
  if (ended_by_ != 0) raise(ended_by_);
  sigprocmask(SIG_SETMASK, &signals_before_, nullptr);
}

void FullScreen::Enter() {
  termios raw = before_;
  cfmakeraw(&raw);
  tcsetattr(in_, TCSADRAIN, &raw);
  Write(out_, kEnter);
}

void FullScreen::Leave() {
  Write(out_, kLeave);
  tcsetattr(in_, TCSADRAIN, &before_);
}

void FullScreen::Draw(const std::vector<std::string>& lines) {
  std::string all = "\x1b[H";
  for (size_t i = 0; i < lines.size(); ++i) {
    // Each is erased behind what it has now; nothing flickers.
    absl::StrAppend(&all, i > 0 ? "\r\n" : "", lines[i], "\x1b[K");
  }
  Write(out_, absl::StrCat(all, "\x1b[J"));
}

FullScreen::Event FullScreen::Await(absl::Duration time) {
  pollfd sources[] = {{.fd = in_, .events = POLLIN, .revents = 0},
                      {.fd = signals_.get(), .events = POLLIN, .revents = 0}};
  const auto most = static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(time, absl::Milliseconds(1))));
  if (poll(sources, 2, std::max(most, 0)) <= 0) return {};
  if (sources[1].revents != 0) return TakeSignal();
  char key;
  const ssize_t count = read(in_, &key, 1);
  if (count < 0 && errno == EINTR) return {};
  return count == 1 ? Event{Event::Kind::kKey, key} : Event{Event::Kind::kEnd};
}

FullScreen::Event FullScreen::TakeSignal() {
  signalfd_siginfo info;
  if (read(signals_.get(), &info, sizeof info) != sizeof info) return {};
  const int number = static_cast<int>(info.ssi_signo);
  if (number == SIGTSTP) {
    Leave();
    raise(SIGSTOP);
    Enter();
  }
  if (number == SIGWINCH || number == SIGTSTP) return {Event::Kind::kRedraw};
  if (number == SIGPIPE) return {Event::Kind::kEnd};
  ended_by_ = number;
  return {Event::Kind::kEnd};
}

}  // namespace quire
