#include "vmm/libvirt/qemu/qemu_guests.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "vmm/libvirt/qemu/qemu_domain.h"
#include "vmm/libvirt/qemu/qemu_process.h"

namespace quire {
namespace {

// All threads of it. What it is charged for already stays where it is (in version 1 of cgroups): so before it has much.
absl::Status MoveToCgroup(pid_t process, int procs) {
  const std::string number = absl::StrCat(process);
  if (write(procs, number.data(), number.size()) == static_cast<ssize_t>(number.size())) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("move QEMU's process ", process, " to the cgroup of the run"));
}

GuestSnapshot::State StateOf(bool started, bool finished, const absl::Status& exit) {
  using State = GuestSnapshot::State;
  if (!started) return State::kWaiting;
  if (!finished) return State::kRunning;
  return exit.ok() ? State::kFinished : State::kStopped;
}

}  // namespace

QemuGuests::QemuGuests(LibvirtConnection& libvirt, const RunOptions& options, const QemuHost& host, std::string kernel,
                       std::optional<std::string> initrd)
    : libvirt_(libvirt),
      options_(options),
      host_(host),
      kernel_(std::move(kernel)),
      initrd_(std::move(initrd)),
      killed_(host.oom_kills ? host.oom_kills() : 0) {
  for (size_t group = 0; group < options.groups.size(); ++group) {
    for (int i = 0; i < options.groups[group].guests; ++i) {
      const std::string name = absl::StrCat(options.groups[group].name, "-", i);
      guests_.push_back({.name = name,
                         .group = group,
                         .uuid = NewUuid(),
                         .console = ConsoleTail(absl::StrCat(host.directory, "/console-", name)),
                         .balloon = options.pc->balloon});
    }
  }
}

QemuGuests::~QemuGuests() { StopAll(); }

std::string QemuGuests::XmlOf(const Guest& guest) const {
  const GuestGroup& group = OptionsOf(guest);
  // Others may run an experiment at the same time, on other hosts of the same libvirt.
  return DomainXml({.name = absl::StrCat("quire-", getpid(), "-", guest.name),
                    .uuid = guest.uuid,
                    .memory = group.memory,
                    .vcpus = group.vcpus,
                    .kernel = kernel_,
                    .initrd = initrd_,
                    .command_line = group.command_line,
                    .balloon = guest.balloon,
                    .kvm = host_.accel.kvm,
                    .merge = options_.merge == Merge::kOn,
                    .console = guest.console.path()});
}

void QemuGuests::StartGuest(size_t guest) {
  Guest& g = guests_[guest];
  g.started = true;
  g.start = RealClock().Now();
  if (const absl::Status status = Start(g); !status.ok()) {
    (void)libvirt_.Destroy(g.uuid);
    End(g, status);
  }
}

absl::Status QemuGuests::Start(const Guest& guest) {
  const absl::StatusOr<DomainSummary> domain = libvirt_.CreatePaused(XmlOf(guest));
  if (!domain.ok()) return domain.status();
  if (host_.procs >= 0) {
    const absl::StatusOr<pid_t> process = FindQemu(guest.uuid);
    if (!process.ok()) return process.status();
    if (absl::Status status = MoveToCgroup(*process, host_.procs); !status.ok()) return status;
  }
  return libvirt_.Resume(guest.uuid);
}

void QemuGuests::StopGuest(size_t guest) {
  Guest& g = guests_[guest];
  if (!g.started || g.finished) return;
  LookAt(g, /*statistics=*/true);
  if (g.finished) return;
  g.stopped = true;
  const absl::Status status = libvirt_.Destroy(g.uuid);
  // One that has gone by itself meanwhile is as good.
  End(g, absl::IsNotFound(status) || absl::IsFailedPrecondition(status) ? absl::OkStatus() : status);
}

void QemuGuests::StopAll() {
  for (size_t guest = 0; guest < guests_.size(); ++guest) StopGuest(guest);
}

void QemuGuests::SetBalloon(size_t guest, ByteCount size) {
  Guest& g = guests_[guest];
  g.balloon = size;
  if (!g.started || g.finished) return;
  const absl::Status status = libvirt_.SetMemory(g.uuid, OptionsOf(g).memory - size);
  if (status.ok()) return;
  LookAt(g, /*statistics=*/false);
  if (g.finished) return;
  (void)libvirt_.Destroy(g.uuid);
  End(g, status);
}

void QemuGuests::Look() {
  const MonotonicTime now = RealClock().Now();
  const bool statistics = now >= next_statistics_;
  if (statistics) next_statistics_ = now + kStatisticsEvery;
  for (Guest& guest : guests_) {
    if (guest.started && !guest.finished) LookAt(guest, statistics);
  }
}

void QemuGuests::LookAt(Guest& guest, bool statistics) {
  const absl::StatusOr<DomainActivity> now = libvirt_.GetActivity(guest.uuid);
  if (!now.ok()) return End(guest, absl::IsNotFound(now.status()) ? ReasonOfEnd(guest) : now.status());
  if (now->state == DomainState::kShutOff || now->state == DomainState::kCrashed) {
    return End(guest, ReasonOfEnd(guest));
  }
  guest.cpu = std::max(guest.cpu, now->cpu_time);
  guest.console.Read();
  if (!statistics) return;
  // Of a guest that is ending there are none.
  const absl::StatusOr<DomainMemoryStats> memory = libvirt_.GetMemoryStats(guest.uuid);
  if (!memory.ok()) return;
  guest.statistics = *memory;
  guest.peak_rss = std::max(guest.peak_rss, memory->rss.value_or(ByteCount()));
}

void QemuGuests::End(Guest& guest, const absl::Status& exit) {
  guest.finished = true;
  guest.end = RealClock().Now();
  guest.exit = exit;
  guest.console.Read();
}

// libvirt forgets a transient domain at its end. Whoever has not been killed has powered off or reset itself.
absl::Status QemuGuests::ReasonOfEnd(const Guest& guest) {
  const uint64_t killed = host_.oom_kills ? host_.oom_kills() : 0;
  if (killed <= killed_) return absl::OkStatus();
  ++killed_;
  return absl::ResourceExhaustedError(
      absl::StrCat("the host kernel killed the QEMU of ", guest.name, " for want of memory"));
}

ScheduledGuests::State QemuGuests::StateOf(size_t guest) const {
  const Guest& g = guests_[guest];
  return {
      .started = g.started, .filled = true, .finished = g.finished, .out_of_memory = absl::IsResourceExhausted(g.exit)};
}

GuestTotals QemuGuests::CountAll() const {
  GuestTotals totals;
  for (const Guest& guest : guests_) {
    totals.operations += guest.console.report().operations();
    totals.cpu += guest.cpu;
  }
  return totals;
}

// What the guest has given back, as QEMU knows it.
ByteCount QemuGuests::BalloonOf(const Guest& guest) const {
  const ByteCount memory = OptionsOf(guest).memory;
  return memory - std::min(memory, guest.statistics.balloon.value_or(memory));
}

std::vector<GuestSnapshot> QemuGuests::Snapshots() const {
  std::vector<GuestSnapshot> snapshots;
  for (const Guest& guest : guests_) {
    GuestSnapshot snapshot{.name = guest.name,
                           .state = quire::StateOf(guest.started, guest.finished, guest.exit),
                           .operations = guest.console.report().operations(),
                           .memory = OptionsOf(guest).memory};
    if (guest.started && !guest.finished) {
      const DomainMemoryStats& told = guest.statistics;
      snapshot.rss = told.rss;
      snapshot.told = {.balloon = BalloonOf(guest),
                       .total = told.available,
                       .free = told.unused,
                       .swapped_in = told.swap_in,
                       .swapped_out = told.swap_out};
    }
    snapshots.push_back(std::move(snapshot));
  }
  return snapshots;
}

GuestReport QemuGuests::Report(size_t number) const {
  const Guest& guest = guests_[number];
  const bool by_itself = guest.finished && !guest.stopped && guest.exit.ok();
  GuestReport report{.id = static_cast<int>(number),
                     .name = guest.name,
                     .memory_bytes = OptionsOf(guest).memory,
                     .vcpus = OptionsOf(guest).vcpus,
                     .exit = guest.exit,
                     .operations = guest.console.report().operations(),
                     .peak_resident_bytes = guest.peak_rss,
                     .state = Name(quire::StateOf(guest.started, guest.finished, guest.exit)),
                     .resident_bytes = guest.statistics.rss.value_or(ByteCount())};
  report.pc = PcReport{.ended = by_itself        ? "power off or reset"
                                : guest.finished ? "time"
                                                 : "not yet",
                       .console = guest.console.report().values(),
                       .balloon_bytes = BalloonOf(guest),
                       .balloon_target_bytes = guest.balloon};
  if (guest.finished && guest.end > guest.start) {
    report.operations_per_second =
        static_cast<double>(report.operations) / absl::ToDoubleSeconds(guest.end - guest.start);
  }
  return report;
}

}  // namespace quire
