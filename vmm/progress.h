// A run as it goes on: what the run tells, and what the user sees of it.
#ifndef QUIRE_VMM_PROGRESS_H_
#define QUIRE_VMM_PROGRESS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "vmm/terminal.h"

namespace quire {

struct GuestSnapshot {
  enum class State : uint8_t { kWaiting, kFilling, kRunning, kFinished, kStopped };
  std::string name = {};
  State state = State::kFilling;
  uint64_t operations = 0;        // since the start of the run
  uint64_t faults = 0;            // since the start of the run
  uint64_t mismatched_pages = 0;  // since the start of the run
  // The guest's memory and the part of it in each state; the rest was never touched.
  ByteCount memory = {};
  ByteCount resident = {};
  ByteCount out = {};
  ByteCount shared = {};
  ByteCount compressed = {};  // as the guest sees it: before compression
  // What drivers of balloons say, of guests that have such: the balloon's size, MemTotal, MemFree, and what the guest
  // has swapped since it began. It need not be true.
  struct Told {
    std::optional<ByteCount> balloon = {}, total = {}, free = {}, swapped_in = {}, swapped_out = {};
  };
  Told told = {};
  std::optional<ByteCount> rss = {};  // that a process of its own has on the host, if there is one (QEMU's)
};

// "filling", "running", "finished", "stopped".
const char* Name(GuestSnapshot::State state);

struct Snapshot {
  absl::Duration elapsed = {};             // since the start of the run
  absl::Duration duration = {};            // that the run is to take; zero: nobody knows
  std::vector<GuestSnapshot> guests = {};  // always as many and in the same order
  ByteCount pool_used = {};
  ByteCount pool_limit = {};  // zero where there is no pool
  // Of a run that has a schedule:
  std::string phase = {};
  struct Pool {
    ByteCount resident, out, shared, compressed, wired, free;
  };
  std::optional<Pool> pool = {};  // nothing where there is none
  ByteCount huge = {};            // of guests' memory, mapped by 2 MiB
};

// Samples are taken this often: quick enough to look alive, rare enough to cost nothing.
inline constexpr absl::Duration kSampleInterval = absl::Milliseconds(200);

// How often plain lines are printed.
inline constexpr absl::Duration kLineInterval = absl::Seconds(2);

// Called from one thread at a time.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  virtual void Update(const Snapshot& snapshot) = 0;
  // A line that a guest wrote to its console, with its name, without a line break.
  virtual void ShowLine(absl::string_view line) = 0;
  // Whether the user has asked for an early end of the run, to be ended as if its time were over.
  virtual bool interrupted() const = 0;
};

// Draws a table in place on a terminal; elsewhere prints plain lines every two seconds.
class ProgressPrinter : public ProgressSink {
 public:
  // `terminal` is asked before each drawing. `out` and both functions must live as long as this.
  ProgressPrinter(std::ostream& out, std::function<Terminal()> terminal, std::function<bool()> interrupted)
      : out_(out), terminal_(std::move(terminal)), interrupted_(std::move(interrupted)) {}

  void Update(const Snapshot& snapshot) override;
  void ShowLine(absl::string_view line) override;
  bool interrupted() const override { return interrupted_(); }

  // Takes the table off the terminal; what is printed next stands in its place.
  void Clear();

 private:
  void MeasureRates(const Snapshot& snapshot);
  std::vector<std::string> Table(const Snapshot& snapshot, const Terminal& terminal) const;
  std::string Row(const GuestSnapshot& guest, double rate, const Terminal& terminal) const;
  void Redraw(const std::vector<std::string>& lines);
  void PrintLines(const Snapshot& snapshot);

  std::ostream& out_;
  const std::function<Terminal()> terminal_;
  const std::function<bool()> interrupted_;
  size_t drawn_ = 0;                           // lines of the table that are on the terminal
  absl::Duration next_lines_ = kLineInterval;  // when plain lines are due
  absl::Duration measured_;                    // when rates_ were brought up to date
  std::vector<uint64_t> operations_;           // of each guest, at measured_
  std::vector<double> rates_;                  // operations per second of each guest
};

}  // namespace quire

#endif  // QUIRE_VMM_PROGRESS_H_
