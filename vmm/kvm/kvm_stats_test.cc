#include "vmm/kvm/kvm_stats.h"

#include <linux/kvm.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

constexpr uint32_t kNameSize = 48;
constexpr uint32_t kRecordSize =
    16 + kNameSize;  // flags, exponent, number of values, offset, bucket size; then the name

struct Counter {
  std::string name;
  std::vector<uint64_t> values;
};

// A file of the form that KVM's descriptors have.
std::string StatsFile(const std::vector<Counter>& counters) {
  kvm_stats_header header = {};
  header.name_size = kNameSize;
  header.num_desc = static_cast<uint32_t>(counters.size());
  header.id_offset = sizeof(header);
  header.desc_offset = header.id_offset + kNameSize;
  header.data_offset = header.desc_offset + header.num_desc * kRecordSize;
  std::string file(header.data_offset, '\0'), data;
  std::memcpy(file.data(), &header, sizeof(header));
  for (size_t i = 0; i < counters.size(); ++i) {
    const uint16_t values = static_cast<uint16_t>(counters[i].values.size());
    const uint32_t offset = static_cast<uint32_t>(data.size());
    char* const record = file.data() + header.desc_offset + i * kRecordSize;
    std::memcpy(record + 6, &values, sizeof(values));
    std::memcpy(record + 8, &offset, sizeof(offset));
    std::memcpy(record + 16, counters[i].name.data(), counters[i].name.size());
    data.append(reinterpret_cast<const char*>(counters[i].values.data()), counters[i].values.size() * 8);
  }
  return file + data;
}

UniqueFd FileWith(const std::string& bytes) {
  UniqueFd fd(memfd_create("stats", MFD_CLOEXEC));
  EXPECT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  return fd;
}

TEST(KvmStats, ReadsNamedCounters) {
  const auto stats =
      KvmStats::Open(FileWith(StatsFile({{"pages_4k", {7}}, {"histogram", {1, 2, 3}}, {"exits", {99}}})));
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(*stats->Read("pages_4k"), 7u);
  EXPECT_EQ(*stats->Read("exits"), 99u);
  EXPECT_THAT(stats->names(), ::testing::ElementsAre("exits", "pages_4k"));
}

TEST(KvmStats, ReadsTheValueOfNow) {
  const std::string before = StatsFile({{"exits", {1}}}), after = StatsFile({{"exits", {2}}});
  UniqueFd fd = FileWith(before);
  const int writer = fd.get();
  const auto stats = KvmStats::Open(std::move(fd));
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(*stats->Read("exits"), 1u);
  ASSERT_EQ(pwrite(writer, after.data(), after.size(), 0), static_cast<ssize_t>(after.size()));
  EXPECT_EQ(*stats->Read("exits"), 2u);
}

TEST(KvmStats, UnknownCountersAreNotFound) {
  const auto stats = KvmStats::Open(FileWith(StatsFile({{"exits", {1}}})));
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(stats->Read("pages_2m").status().code(), absl::StatusCode::kNotFound);
}

TEST(KvmStats, RefusesFilesOfAnotherForm) {
  EXPECT_EQ(KvmStats::Open(FileWith("")).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(KvmStats::Open(FileWith(std::string(64, '\xff'))).status().code(), absl::StatusCode::kDataLoss);
  const std::string file = StatsFile({{"exits", {1}}});
  EXPECT_EQ(KvmStats::Open(FileWith(file.substr(0, 100))).status().code(), absl::StatusCode::kDataLoss);
  const auto without_data = KvmStats::Open(FileWith(file.substr(0, file.size() - 8)));
  ASSERT_TRUE(without_data.ok());
  EXPECT_EQ(without_data->Read("exits").status().code(), absl::StatusCode::kDataLoss);
}

TEST(KvmStats, UnreadableDescriptorsAreUnavailable) {
  EXPECT_EQ(KvmStats::Open(UniqueFd()).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace quire
