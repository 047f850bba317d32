#include "vmm/bench/clone.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/mapping.h"
#include "base/thread.h"
#include "base/units.h"
#include "vmm/bench/sweep.h"
#include "vmm/report.h"
#include "vmm/run.h"
#include "vmm/statistics.h"

namespace quire {
namespace {

constexpr int kCopies = 15;

// Long enough for each clone to read and write some pages, and to find them as they should be.
constexpr absl::Duration kRun = absl::Seconds(2);

double Percent(ByteCount part, ByteCount whole) {
  return 100 * static_cast<double>(part.in_bytes()) / static_cast<double>(whole.in_bytes());
}

// Memory of a process's page tables.
ByteCount PageTablesOf(pid_t process) {
  std::ifstream status(absl::StrCat("/proc/", process, "/status"));
  for (std::string line; std::getline(status, line);) {
    absl::string_view rest = line;
    uint64_t kib = 0;
    if (!absl::ConsumePrefix(&rest, "VmPTE:") || !absl::ConsumeSuffix(&rest, " kB")) continue;
    if (absl::SimpleAtoi(rest, &kib)) return ByteCount::KiB(kib);
  }
  return ByteCount();
}

// Processes that sleep, until this goes.
class Forks {
 public:
  Forks() = default;
  Forks(const Forks&) = delete;
  Forks& operator=(const Forks&) = delete;
  ~Forks() {
    for (const pid_t process : processes_) {
      kill(process, SIGKILL);
      waitpid(process, nullptr, 0);
    }
  }

  absl::StatusOr<pid_t> Add() {
    const pid_t process = fork();
    if (process < 0) return absl::ErrnoToStatus(errno, "fork");
    if (process == 0) {
      for (;;) pause();
    }
    processes_.push_back(process);
    return process;
  }

 private:
  std::vector<pid_t> processes_;
};

}  // namespace

absl::StatusOr<Measurement> MeasureClones(RunOptions options, ProgressSink& progress) {
  options.clones = kCopies;
  options.workload = "zipf:writes=0.01";
  options.duration = kRun;
  const absl::Duration cpu_before = ProcessCpuTime();
  const absl::StatusOr<Report> report = RunGuests(options, progress);
  if (!report.ok()) return report.status();
  Measurement measured{.content_ratio = report->content_ratio};
  for (const GuestReport& guest : report->guests) {
    if (!guest.exit.ok()) return guest.exit;
    measured.mismatched_pages += guest.mismatched_pages;
  }
  const ClonesReport& clones = report->clones;
  measured.value = clones.clone_seconds_median * 1e3;
  measured.cpu_seconds = absl::ToDoubleSeconds(ProcessCpuTime() - cpu_before);
  measured.details["slowest_ms"] = clones.clone_seconds_max * 1e3;
  measured.details["freeze_ms"] = clones.freeze_seconds * 1e3;
  measured.details["freeze_gib_per_second"] = clones.freeze_gib_per_second;
  measured.details["memory_percent"] = Percent(clones.pool_bytes_each + clones.metadata_bytes_each, options.memory);
  return measured;
}

absl::StatusOr<Measurement> MeasureForks(const RunOptions& options, Side side) {
  const absl::StatusOr<Mapping> memory =
      Mapping::MapAligned(options.memory, ByteCount::Bytes(kBlockSize), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!memory.ok()) return memory.status();
  madvise(memory->data(), memory->size().in_bytes(), side == Side::kKernelSmall ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
  for (uint64_t byte = 0; byte < memory->size().in_bytes(); byte += kPageSize) memory->data()[byte] = std::byte{1};
  const absl::Duration cpu_before = ProcessCpuTime();
  Forks forks;
  std::vector<double> milliseconds;
  ByteCount tables;
  for (int i = 0; i < kCopies; ++i) {
    const MonotonicTime begin = RealClock().Now();
    const absl::StatusOr<pid_t> process = forks.Add();
    if (!process.ok()) return process.status();
    milliseconds.push_back(absl::ToDoubleMilliseconds(RealClock().Now() - begin));
    tables = PageTablesOf(*process);
  }
  Measurement measured{.value = Median(milliseconds)};
  measured.cpu_seconds = absl::ToDoubleSeconds(ProcessCpuTime() - cpu_before);
  measured.details["memory_percent"] = Percent(tables, options.memory);
  return measured;
}

}  // namespace quire
