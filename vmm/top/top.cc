#include "vmm/top/top.h"

#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "vmm/control/client.h"
#include "vmm/control/request.h"
#include "vmm/control/socket_place.h"
#include "vmm/top/full_screen.h"
#include "vmm/top/top_sample.h"

namespace quire {
namespace {

constexpr char kEnded[] = "The run has ended.\n";

absl::StatusOr<TopSample> Ask(const std::string& socket) {
  const absl::StatusOr<std::string> report = AskRun(socket, {.command = ControlRequest::Command::kReport});
  return report.ok() ? ParseTopSample(*report) : report.status();
}

// Why a run that was there before does not answer; OK: it has ended.
absl::Status Judge(const std::string& socket, const absl::Status& why) {
  return ConnectTo(socket).ok() ? why : absl::OkStatus();
}

void Print(const TopView& view, std::ostream& out, const Terminal& terminal) {
  for (const std::string& line : view.Lines(terminal)) out << line << "\n";
  out << std::flush;
}

absl::Status RunPlain(const TopOptions& options, TopView& view, std::ostream& out, Terminal terminal) {
  terminal.interactive = terminal.color = false;
  for (bool first = true; out.good(); first = false) {
    absl::SleepFor(options.interval);
    absl::StatusOr<TopSample> sample = Ask(options.socket);
    if (!sample.ok()) {
      const absl::Status why = Judge(options.socket, sample.status());
      if (why.ok()) out << kEnded << std::flush;
      return why;
    }
    view.Show(*std::move(sample));
    if (!first) out << "\n";
    Print(view, out, terminal);
    if (options.once) break;
  }
  return absl::OkStatus();
}

// Until the next sample is due. False: it is over.
bool Attend(FullScreen& screen, TopView& view, MonotonicTime due, const std::function<Terminal()>& terminal) {
  for (;;) {
    const absl::Duration left = due - RealClock().Now();
    if (left <= absl::ZeroDuration()) return true;
    const FullScreen::Event event = screen.Await(left);
    if (event.kind == FullScreen::Event::Kind::kEnd) return false;
    if (event.kind == FullScreen::Event::Kind::kKey && !view.Press(event.key)) return false;
    if (event.kind != FullScreen::Event::Kind::kNothing) screen.Draw(view.Lines(terminal()));
  }
}

absl::Status RunOnScreen(const TopOptions& options, TopView& view, FullScreen& screen,
                         const std::function<Terminal()>& terminal, bool& ended) {
  for (MonotonicTime due = RealClock().Now();;) {
    screen.Draw(view.Lines(terminal()));
    due = due + options.interval;
    // After a pause, or if the run took long to answer.
    if (due < RealClock().Now()) due = RealClock().Now() + options.interval;
    if (!Attend(screen, view, due, terminal)) return absl::OkStatus();
    // Asked even if nothing is to change, to notice the end.
    absl::StatusOr<TopSample> sample = Ask(options.socket);
    if (!sample.ok()) {
      absl::Status why = Judge(options.socket, sample.status());
      ended = why.ok();
      return why;
    }
    if (!view.paused()) view.Show(*std::move(sample));
  }
}

}  // namespace

absl::Status RunTop(const TopOptions& options, std::ostream& out, const std::function<Terminal()>& terminal) {
  absl::StatusOr<TopSample> first = Ask(options.socket);
  if (!first.ok()) return first.status();
  TopView view(options.sort);
  view.Show(*std::move(first));
  const Terminal now = terminal();
  if (options.once || !now.interactive || isatty(STDIN_FILENO) != 1) return RunPlain(options, view, out, now);
  bool ended = false;
  absl::Status status;
  {
    const absl::StatusOr<std::unique_ptr<FullScreen>> screen = FullScreen::Open(STDIN_FILENO, STDOUT_FILENO);
    if (!screen.ok()) return screen.status();
    status = RunOnScreen(options, view, **screen, terminal, ended);
  }
  if (ended) out << kEnded << std::flush;
  return status;
}

}  // namespace quire
