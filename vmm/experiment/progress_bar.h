// How far an experiment has come, and how long it will take: a line that is redrawn on a terminal, lines elsewhere.
#ifndef QUIRE_VMM_EXPERIMENT_PROGRESS_BAR_H_
#define QUIRE_VMM_EXPERIMENT_PROGRESS_BAR_H_

#include <functional>
#include <ostream>
#include <string>

#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "vmm/terminal.h"

namespace quire {

// Belongs to one thread.
class ProgressBar {
 public:
  // `out` and `terminal` outlive this.
  ProgressBar(std::ostream& out, const std::function<Terminal()>& terminal, const Clock& clock = RealClock())
      : out_(out), terminal_(terminal), clock_(clock), start_(clock.Now()) {}

  // One more run, that is to take so long.
  void Expect(double seconds);
  void Begin(absl::string_view run);
  // The run has gone on for so long.
  void Update(double seconds);
  // The run has ended; `remark` is shown if there is one.
  void End(absl::string_view remark);
  // Takes the line off the terminal.
  void Clear();

  // Seconds until all have ended, as far as can be known: runs take longer than they are to, by as much as those have
  // that are over.
  double SecondsLeft(double seconds_of_this) const;

 private:
  std::string Line(double seconds) const;

  std::ostream& out_;
  const std::function<Terminal()>& terminal_;
  const Clock& clock_;
  const MonotonicTime start_;
  std::vector<double> expected_;
  size_t begun_ = 0;
  double expected_of_done_ = 0;
  double took_ = 0;  // those that are done
  MonotonicTime run_start_;
  std::string run_;
  bool drawn_ = false;
};

}  // namespace quire

#endif  // QUIRE_VMM_EXPERIMENT_PROGRESS_BAR_H_
