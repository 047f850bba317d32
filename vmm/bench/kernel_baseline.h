// The host kernel's side of a comparison: swap space in compressed memory (zram with lz4), and a memory cgroup to run
// in, whose limit is set so that it and zram's memory together are what the pool is. (zram's memory is charged to no
// cgroup.) Or ksmd, which merges equal pages.
//
// All of it is made for the benchmark and taken down when the baseline goes, on Ctrl-C too.
#ifndef QUIRE_VMM_BENCH_KERNEL_BASELINE_H_
#define QUIRE_VMM_BENCH_KERNEL_BASELINE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/units.h"
#include "vmm/bench/benchmark.h"
#include "vmm/bench/host_settings.h"

namespace quire {

// Belongs to one thread. One in a host at a time.
class KernelBaseline {
 public:
  // What `benchmark` needs of the host, for a guest of `memory`. `root` stands before all paths, for tests; with one,
  // no swap space is switched on. Errors: FailedPrecondition, with what the host lacks.
  static absl::StatusOr<std::unique_ptr<KernelBaseline>> Create(const Benchmark& benchmark, ByteCount memory,
                                                                const std::string& root = "");
  ~KernelBaseline();

  // Makes the host as `side` wants it, until the next call.
  absl::Status Prepare(Side side);
  // The limit of the cgroup.
  absl::Status SetLimit(ByteCount limit);
  // What the cgroup and zram hold at the moment.
  ByteCount Usage() const;
  // The file that takes a process into the cgroup; empty if there is none.
  const std::string& procs() const { return procs_; }

 private:
  KernelBaseline(std::string root, const Benchmark& benchmark)
      : root_(std::move(root)), limited_(benchmark.limited), merges_(benchmark.merges) {}

  absl::Status SetUpSwap(ByteCount size);
  absl::StatusOr<std::string> FindZram();
  absl::Status SetUpCgroup();
  absl::Status SetUpMerging();
  absl::Status PrepareHugePages(Side side);
  // Has ksmd forget all pages, and wait for the first.
  absl::Status PrepareMerging(Side side);
  absl::Status TuneKsmd();

  const std::string root_;
  const bool limited_;  // memory is
  const bool merges_;
  std::string zram_;   // directory in sysfs
  std::string limit_;  // files of the cgroup
  std::string usage_;
  std::string procs_;
  HostSettings settings_;  // swap space and cgroup
  HostSettings side_;      // what differs from side to side: goes first
};

}  // namespace quire

#endif  // QUIRE_VMM_BENCH_KERNEL_BASELINE_H_
