#include "vmm/host_facts.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace quire {
namespace {

// What follows `prefix` on the first line of `text` that begins with it.
absl::string_view LineAfter(absl::string_view text, absl::string_view prefix) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (absl::ConsumePrefix(&line, prefix)) return absl::StripAsciiWhitespace(line);
  }
  return {};
}

// The directories of the memory cgroup and of all above it, as paths below /sys/fs/cgroup, and the limit's file name.
struct MemoryCgroup {
  std::string root;
  std::string path;
  std::string file;
};
std::optional<MemoryCgroup> FindMemoryCgroup(const Host& host) {
  const std::string text = host.ReadFile("/proc/self/cgroup").value_or("");
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    // "4:memory:/path" in version 1, "0::/path" in version 2.
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3 || parts[1] != "memory") continue;
    return MemoryCgroup{"/sys/fs/cgroup/memory", parts[2], "memory.limit_in_bytes"};
  }
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (absl::ConsumePrefix(&line, "0::")) return MemoryCgroup{"/sys/fs/cgroup", std::string(line), "memory.max"};
  }
  return std::nullopt;
}

bool IsComplaint(absl::string_view line) {
  const std::string lower = absl::AsciiStrToLower(line);
  if (!absl::StrContains(lower, "kvm")) return false;
  for (absl::string_view word :
       {"disabled", "no hardware support", "not supported", "unsupported", "cannot", "failed", "not binding"}) {
    if (absl::StrContains(lower, word)) return true;
  }
  return false;
}

}  // namespace

KernelVersion Kernel(const Host& host) {
  const std::string release = host.ReadFile("/proc/sys/kernel/osrelease").value_or("");
  const std::vector<std::string> parts = absl::StrSplit(release, absl::ByAnyChar(".-\n"));
  KernelVersion version;
  if (parts.size() < 2 || !absl::SimpleAtoi(parts[0], &version.major) || !absl::SimpleAtoi(parts[1], &version.minor)) {
    return KernelVersion();
  }
  return version;
}

ByteCount MemInfo(const Host& host, absl::string_view key) {
  const std::string text = host.ReadFile("/proc/meminfo").value_or("");
  absl::string_view value = LineAfter(text, absl::StrCat(key, ":"));
  absl::ConsumeSuffix(&value, " kB");
  uint64_t kib = 0;
  return absl::SimpleAtoi(value, &kib) ? ByteCount::KiB(kib) : ByteCount();
}

std::optional<ByteCount> CgroupLimit(const Host& host) {
  const std::optional<MemoryCgroup> cgroup = FindMemoryCgroup(host);
  if (!cgroup) return std::nullopt;
  std::optional<ByteCount> lowest;
  for (std::string path = cgroup->path;; path.resize(path.rfind('/'))) {
    const absl::string_view directory = absl::StripSuffix(path, "/");
    const auto limit = NumberIn(host, absl::StrCat(cgroup->root, directory, "/", cgroup->file));
    // Version 1 writes "no limit" as a number near 2^63, version 2 as "max".
    if (limit && *limit < uint64_t{1} << 60) {
      lowest = std::min(lowest.value_or(ByteCount::Bytes(*limit)), ByteCount::Bytes(*limit));
    }
    if (directory.empty() || directory.rfind('/') == absl::string_view::npos) return lowest;
  }
}

ByteCount UsableMemory(const Host& host) {
  const ByteCount total = MemInfo(host, "MemTotal");
  return std::min(total, CgroupLimit(host).value_or(total));
}

std::optional<uint64_t> NumberIn(const Host& host, const std::string& path) {
  uint64_t number = 0;
  const std::optional<std::string> text = host.ReadFile(path);
  if (!text || !absl::SimpleAtoi(*text, &number)) return std::nullopt;
  return number;
}

std::string ChosenIn(const Host& host, const std::string& path) {
  const std::string text = host.ReadFile(path).value_or("");
  const size_t begin = text.find('[');
  const size_t end = text.find(']');
  if (begin == std::string::npos || end == std::string::npos || end < begin) return "";
  return text.substr(begin + 1, end - begin - 1);
}

bool HasCpuFlag(const Host& host, absl::string_view flag) {
  const std::string text = host.ReadFile("/proc/cpuinfo").value_or("");
  const absl::string_view flags = LineAfter(text, "flags");
  const std::vector<absl::string_view> words = absl::StrSplit(flags, ' ');
  return std::find(words.begin(), words.end(), flag) != words.end();
}

bool HasCapability(const Host& host, int capability) {
  const std::string text = host.ReadFile("/proc/self/status").value_or("");
  uint64_t effective = 0;
  return absl::SimpleHexAtoi(LineAfter(text, "CapEff:"), &effective) && (effective >> capability & 1) != 0;
}

std::string KvmComplaint(const Host& host) {
  absl::string_view complaint;
  const std::string log = host.KernelLog();
  for (absl::string_view line : absl::StrSplit(log, '\n')) {
    if (IsComplaint(line)) complaint = line;
  }
  const size_t stamp = complaint.find("] ");  // "<3>[    0.252612] kvm: ..."
  if (absl::StartsWith(complaint, "<") && stamp != absl::string_view::npos) complaint.remove_prefix(stamp + 2);
  return std::string(absl::StripAsciiWhitespace(complaint));
}

}  // namespace quire
