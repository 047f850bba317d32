// `quire top`: a run in another process, as it goes on.
#ifndef QUIRE_VMM_TOP_TOP_H_
#define QUIRE_VMM_TOP_TOP_H_

#include <functional>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "vmm/terminal.h"
#include "vmm/top/top_view.h"

namespace quire {

struct TopOptions {
  std::string socket;
  absl::Duration interval = absl::Seconds(1);
  TopSort sort = TopSort::kGuest;
  bool once = false;
};

// Shows the run until it ends, which is said, or the user wants to leave; with `once`, what can be measured in one
// interval. On standard output and input if both are terminals and `once` is not asked for; otherwise as plain text, on
// `out`. A signal that ends the process does so after the terminal has been put back. Error: the run cannot be asked.
absl::Status RunTop(const TopOptions& options, std::ostream& out, const std::function<Terminal()>& terminal);

}  // namespace quire

#endif  // QUIRE_VMM_TOP_TOP_H_
