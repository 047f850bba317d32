#include "vmm/libvirt/qemu/qemu_run.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "vmm/boot/test_initramfs.h"
#include "vmm/files.h"
#include "vmm/libvirt/qemu/run_directory.h"
#include "vmm/phase_runner.h"
#include "vmm/report.h"

namespace quire {
namespace {

using Json = nlohmann::json;

// What QEMU is to boot the guests from: copies of the user's files, or the project's own initramfs.
struct BootFiles {
  std::string kernel;
  std::optional<std::string> initrd;
};

absl::StatusOr<BootFiles> CopyBootFiles(const PcOptions& options, const std::string& directory) {
  BootFiles files;
  absl::StatusOr<std::string> kernel = CopyForAll(options.kernel, directory + "/kernel");
  if (!kernel.ok()) return kernel.status();
  files.kernel = *std::move(kernel);
  if (options.own_initramfs) {
    files.initrd = directory + "/initrd";
    const absl::Span<const std::byte> initramfs = TestInitramfs();
    const absl::string_view bytes(reinterpret_cast<const char*>(initramfs.data()), initramfs.size());
    if (absl::Status status = WriteWhole(*files.initrd, bytes); !status.ok()) return status;
    if (chmod(files.initrd->c_str(), 0644) != 0) return absl::ErrnoToStatus(errno, "chmod " + *files.initrd);
  } else if (options.initrd.has_value()) {
    absl::StatusOr<std::string> initrd = CopyForAll(*options.initrd, directory + "/initrd");
    if (!initrd.ok()) return initrd.status();
    files.initrd = *std::move(initrd);
  }
  return files;
}

void AddSize(const char* key, const std::optional<ByteCount>& size, Json& json) {
  if (size.has_value()) json[key] = size->in_bytes();
}

// By the names of virsh dommemstat.
Json StatisticsJson(const DomainMemoryStats& statistics) {
  Json json = Json::object();
  AddSize("actual", statistics.balloon, json);
  AddSize("swap_in", statistics.swap_in, json);
  AddSize("swap_out", statistics.swap_out, json);
  AddSize("unused", statistics.unused, json);
  AddSize("available", statistics.available, json);
  AddSize("usable", statistics.usable, json);
  AddSize("disk_caches", statistics.disk_caches, json);
  AddSize("rss", statistics.rss, json);
  if (statistics.major_faults.has_value()) json["major_fault"] = *statistics.major_faults;
  if (statistics.minor_faults.has_value()) json["minor_fault"] = *statistics.minor_faults;
  return json;
}

class QemuRun {
 public:
  QemuRun(const RunOptions& options, QemuGuests& guests, ProgressSink& progress)
      : options_(options), guests_(guests), progress_(progress), phases_(*options.schedule, guests, start_) {}

  void Execute();
  Report MakeReport();

 private:
  void Sample();

  const RunOptions& options_;
  QemuGuests& guests_;
  ProgressSink& progress_;
  const MonotonicTime start_ = RealClock().Now();
  PhaseRunner phases_;
  std::vector<PhaseReport> phase_reports_;
  double seconds_ = 0;
};

void QemuRun::Execute() {
  for (size_t guest = 0; guest < guests_.count(); ++guest) {
    if (!options_.schedule->StartsLater(guests_.GroupOf(guest))) guests_.StartGuest(guest);
  }
  MonotonicTime look = start_;
  while (!progress_.interrupted() && phases_.Advance(RealClock().Now())) {
    if (phases_.TakeNews()) look = RealClock().Now();
    if (RealClock().Now() >= look) {
      Sample();
      look = RealClock().Now() + kSampleInterval;
    }
    absl::SleepFor(std::min(look, phases_.next()) - RealClock().Now());
  }
  guests_.Look();
  phase_reports_ = phases_.Finish(RealClock().Now());
  seconds_ = absl::ToDoubleSeconds(RealClock().Now() - start_);
  guests_.StopAll();
}

void QemuRun::Sample() {
  guests_.Look();
  progress_.Update({.elapsed = RealClock().Now() - start_, .guests = guests_.Snapshots(), .phase = phases_.name()});
}

Report QemuRun::MakeReport() {
  Report report;
  report.engine = Engine::kKernel;
  report.elapsed_seconds = seconds_;
  for (size_t guest = 0; guest < guests_.count(); ++guest) report.guests.push_back(guests_.Report(guest));
  report.policies = {.merge = options_.merge, .huge = options_.huge};
  report.cpu_seconds.vcpus = absl::ToDoubleSeconds(guests_.CountAll().cpu);
  report.phases = phase_reports_;
  return report;
}

}  // namespace

absl::StatusOr<Json> RunQemuGuests(const RunOptions& options, const QemuHost& host, ProgressSink& progress) {
  const absl::StatusOr<std::unique_ptr<LibvirtConnection>> libvirt = OpenLibvirt(host.uri, LibvirtAccess::kReadWrite);
  if (!libvirt.ok()) return libvirt.status();
  return RunQemuGuests(options, host, **libvirt, progress);
}

absl::StatusOr<Json> RunQemuGuests(const RunOptions& options, const QemuHost& host, LibvirtConnection& libvirt,
                                   ProgressSink& progress) {
  absl::StatusOr<BootFiles> files = CopyBootFiles(*options.pc, host.directory);
  if (!files.ok()) return files.status();
  QemuGuests guests(libvirt, options, host, files->kernel, files->initrd);
  QemuRun run(options, guests, progress);
  run.Execute();
  Json json = Json::parse(ToJson(run.MakeReport()));
  json["engine"] = "qemu";
  json["accel"] = host.accel.name();
  json["qemu"] = {
      {"uri", host.uri}, {"libvirt_host", libvirt.HostName().value_or("")}, {"accel_because", host.accel.because}};
  for (size_t guest = 0; guest < guests.count(); ++guest) {
    json["guests"][guest]["memory_stats"] = StatisticsJson(guests.statistics(guest));
  }
  return json;
}

}  // namespace quire
