#include "vmm/kvm/kvm_stats.h"

#include <linux/kvm.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace quire {
namespace {

// Bounds that no kernel comes near, so that a file of another form is not taken seriously.
constexpr uint32_t kMostCounters = 4096;
constexpr uint32_t kLongestName = 4096;

// <linux/kvm.h> has struct kvm_stats_desc for it, which C++ lays out differently from C (Linux 6.1: a struct { } in
// it). The name follows, padded to the header's name_size.
struct Description {
  uint32_t flags;
  int16_t exponent;
  uint16_t values;
  uint32_t offset;
  uint32_t bucket_size;
};
static_assert(sizeof(Description) == 16);

absl::Status ReadFully(int fd, void* buffer, size_t size, uint64_t offset) {
  const ssize_t got = pread(fd, buffer, size, static_cast<off_t>(offset));
  if (got < 0) return absl::UnavailableError(absl::StrCat("reading KVM's statistics: ", std::strerror(errno)));
  if (static_cast<size_t>(got) != size) {
    return absl::DataLossError(absl::StrCat("KVM's statistics end before offset ", offset + size));
  }
  return absl::OkStatus();
}

}  // namespace

KvmStats::KvmStats(UniqueFd fd, std::map<std::string, uint64_t, std::less<>> offsets)
    : fd_(std::move(fd)), offsets_(std::move(offsets)) {}

absl::StatusOr<KvmStats> KvmStats::Open(UniqueFd fd) {
  kvm_stats_header header;
  if (absl::Status status = ReadFully(fd.get(), &header, sizeof(header), 0); !status.ok()) return status;
  if (header.num_desc > kMostCounters || header.name_size == 0 || header.name_size > kLongestName) {
    return absl::DataLossError(absl::StrCat("KVM's statistics are of an unknown form: ", header.num_desc,
                                            " counters with names of ", header.name_size, " bytes"));
  }
  const size_t record_size = sizeof(Description) + header.name_size;
  std::vector<char> records(header.num_desc * record_size);
  if (absl::Status status = ReadFully(fd.get(), records.data(), records.size(), header.desc_offset); !status.ok()) {
    return status;
  }
  std::map<std::string, uint64_t, std::less<>> offsets;
  for (uint32_t i = 0; i < header.num_desc; ++i) {
    const char* const record = records.data() + i * record_size;
    Description description;
    std::memcpy(&description, record, sizeof(description));
    const char* const name = record + sizeof(description);
    if (description.values != 1) continue;  // a histogram
    offsets.emplace(std::string(name, strnlen(name, header.name_size)),
                    uint64_t{header.data_offset} + description.offset);
  }
  return KvmStats(std::move(fd), std::move(offsets));
}

absl::StatusOr<uint64_t> KvmStats::Read(absl::string_view name) const {
  const auto found = offsets_.find(std::string(name));
  if (found == offsets_.end()) return absl::NotFoundError(absl::StrCat("this kernel's KVM does not count ", name));
  uint64_t value = 0;
  if (absl::Status status = ReadFully(fd_.get(), &value, sizeof(value), found->second); !status.ok()) return status;
  return value;
}

std::vector<std::string> KvmStats::names() const {
  std::vector<std::string> names;
  for (const auto& [name, offset] : offsets_) names.push_back(name);
  return names;
}

}  // namespace quire
