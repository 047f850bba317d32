// Guests of a run that QEMU runs, in domains that libvirt starts.
//
// What a guest is made of and what becomes of it over time is as with Quire's own Linux guests; its memory is the host
// kernel's, with same-page merging if that is wanted, in a cgroup of the caller's.
#ifndef QUIRE_VMM_LIBVIRT_QEMU_QEMU_GUESTS_H_
#define QUIRE_VMM_LIBVIRT_QEMU_QEMU_GUESTS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/units.h"
#include "vmm/libvirt/connection.h"
#include "vmm/libvirt/qemu/console_tail.h"
#include "vmm/libvirt/qemu/qemu_accel.h"
#include "vmm/options.h"
#include "vmm/progress.h"
#include "vmm/report.h"
#include "vmm/scheduled_guests.h"

namespace quire {

// What a run with QEMU has of its host.
struct QemuHost {
  std::string uri;        // of libvirt
  QemuAccel accel = {};   // what runs guests' instructions
  std::string directory;  // a RunDirectory's
  int procs = -1;         // cgroup.procs of the cgroup that guests' memory is charged to, for writing; negative: none
  std::function<uint64_t()> oom_kills = nullptr;  // processes that the host kernel has killed in that cgroup so far
};

class QemuGuests final : public ScheduledGuests {
 public:
  // All of it outlives the guests. `kernel` and `initrd` are the files that QEMU reads. `options` are those of a run
  // with a kernel and groups.
  QemuGuests(LibvirtConnection& libvirt, const RunOptions& options, const QemuHost& host, std::string kernel,
             std::optional<std::string> initrd);
  // Ends those that run. So does libvirt, if the connection goes.
  ~QemuGuests() override;

  // Asks libvirt how the guests are, and reads their consoles: what the methods below say is as of then. Statistics of
  // their memory are asked for every kStatisticsEvery only: QEMU has to answer.
  void Look();
  static constexpr absl::Duration kStatisticsEvery = absl::Seconds(1);
  void StopAll();
  std::vector<GuestSnapshot> Snapshots() const;
  GuestReport Report(size_t guest) const;
  // What libvirt said last.
  const DomainMemoryStats& statistics(size_t guest) const { return guests_[guest].statistics; }

  // --- ScheduledGuests
  size_t count() const override { return guests_.size(); }
  size_t GroupOf(size_t guest) const override { return guests_[guest].group; }
  State StateOf(size_t guest) const override;
  void StartGuest(size_t guest) override;
  void StopGuest(size_t guest) override;
  void SetIdle(size_t, int) override {}
  void SetBalloon(size_t guest, ByteCount size) override;
  GuestTotals CountAll() const override;

 private:
  struct Guest {
    std::string name;  // as the run's report has it
    size_t group = 0;
    std::string uuid;
    ConsoleTail console;
    bool started = false, finished = false, stopped = false;
    absl::Status exit = {};  // OK, or a sentence
    MonotonicTime start = {}, end = {};
    absl::Duration cpu = {};
    ByteCount balloon = {};  // that it is to have
    ByteCount peak_rss = {};
    DomainMemoryStats statistics = {};
  };

  const GuestGroup& OptionsOf(const Guest& guest) const { return options_.groups[guest.group]; }
  std::string XmlOf(const Guest& guest) const;
  // Started, in the cgroup before it has touched any of its memory, and running.
  absl::Status Start(const Guest& guest);
  void LookAt(Guest& guest, bool statistics);
  void End(Guest& guest, const absl::Status& exit);
  // Why a guest has gone by itself.
  absl::Status ReasonOfEnd(const Guest& guest);
  ByteCount BalloonOf(const Guest& guest) const;

  LibvirtConnection& libvirt_;
  const RunOptions& options_;
  const QemuHost& host_;
  const std::string kernel_;
  const std::optional<std::string> initrd_;
  std::vector<Guest> guests_;
  uint64_t killed_;  // of host_.oom_kills, those that are known
  MonotonicTime next_statistics_;
};

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_QEMU_QEMU_GUESTS_H_
