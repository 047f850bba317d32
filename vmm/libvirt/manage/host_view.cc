#include "vmm/libvirt/manage/host_view.h"

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/units.h"
#include "vmm/baseline/setting.h"

namespace quire {
namespace {

// A line of /proc/meminfo, such as "MemAvailable:   123 kB".
std::optional<ByteCount> FieldOf(absl::string_view meminfo, absl::string_view name) {
  for (absl::string_view line : absl::StrSplit(meminfo, '\n')) {
    if (!absl::ConsumePrefix(&line, name) || !absl::ConsumePrefix(&line, ":")) continue;
    absl::ConsumeSuffix(&line, "kB");
    uint64_t kib = 0;
    if (absl::SimpleAtoi(line, &kib)) return ByteCount::KiB(kib);
  }
  return std::nullopt;
}

// "some avg10=2.45 avg60=..." (Documentation/accounting/psi.rst).
std::optional<double> PressureOf(absl::string_view psi) {
  for (const absl::string_view word : absl::StrSplit(psi, absl::ByAnyChar(" \n"))) {
    absl::string_view number = word;
    double percent = 0;
    if (absl::ConsumePrefix(&number, "avg10=")) {
      return absl::SimpleAtod(number, &percent) ? std::optional<double>(percent) : std::nullopt;
    }
  }
  return std::nullopt;
}

absl::Status LookAtThisHost(const std::string& root, HostObservation& host) {
  const absl::StatusOr<std::string> meminfo = ReadSetting(root + "/proc/meminfo");
  if (!meminfo.ok()) return meminfo.status();
  const std::optional<ByteCount> total = FieldOf(*meminfo, "MemTotal"), available = FieldOf(*meminfo, "MemAvailable");
  if (!total || !available) return absl::FailedPreconditionError("/proc/meminfo has no MemTotal and MemAvailable");
  host.total = *total;
  host.available = *available;
  // A kernel without PSI has no such file.
  if (const auto psi = ReadSetting(root + "/proc/pressure/memory"); psi.ok()) host.pressure = PressureOf(*psi);
  return absl::OkStatus();
}

absl::Status LookAtOtherHost(LibvirtConnection& connection, HostObservation& host) {
  const absl::StatusOr<NodeMemory> memory = connection.GetNodeMemory();
  if (!memory.ok()) return memory.status();
  host.total = memory->total;
  host.available = memory->free + ByteCount::Bytes((memory->buffers + memory->cached).in_bytes() / 2);
  return absl::OkStatus();
}

}  // namespace

bool IsThisHost(absl::string_view uri) {
  const size_t colon = uri.find("://");
  if (colon == absl::string_view::npos) return true;
  const absl::string_view rest = uri.substr(colon + 3);
  return rest.empty() || absl::StartsWith(rest, "/");
}

absl::StatusOr<HostObservation> LookAtHost(LibvirtConnection& connection, bool this_host, bool ksm,
                                           const std::string& root) {
  HostObservation host;
  const absl::Status memory = this_host ? LookAtThisHost(root, host) : LookAtOtherHost(connection, host);
  if (!memory.ok()) return memory;
  if (!ksm) return host;
  const absl::StatusOr<NodeKsm> node = connection.GetNodeKsm();
  if (!node.ok()) return node.status();
  host.ksm =
      HostKsm{.pages_to_scan = node->pages_to_scan.value_or(0), .sleep_millisecs = node->sleep_millisecs.value_or(0)};
  uint64_t run = 0;
  const absl::StatusOr<std::string> text = ReadSetting(absl::StrCat(root, kKsmRun));
  if (this_host && text.ok() && absl::SimpleAtoi(*text, &run)) host.ksm->run = run;
  return host;
}

}  // namespace quire
