#include "vmm/libvirt/qemu/qemu_process.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

constexpr char kUuid[] = "7a1e4c9e-6c0e-4f63-9a5b-0f5a6c2f7c11";

class FindQemuTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove_all(proc_); }
  void AddProcess(const std::string& number, absl::string_view words) const {
    std::filesystem::create_directories(proc_ + "/" + number);
    std::ofstream(proc_ + "/" + number + "/cmdline", std::ios::binary) << words;
  }

  const std::string proc_ = absl::StrCat(testing::TempDir(), "/find-qemu-proc");
};

TEST_F(FindQemuTest, FindsWhoWasToldTheUuid) {
  using absl::string_view;
  AddProcess("17", string_view("virsh\0destroy\0"
                               "7a1e4c9e-6c0e-4f63-9a5b-0f5a6c2f7c11\0",
                               51));
  AddProcess("18", string_view("qemu\0-uuid\0"
                               "00000000-6c0e-4f63-9a5b-0f5a6c2f7c11\0",
                               48));
  AddProcess("19", string_view("qemu\0-uuid", 10));
  AddProcess("20", "");
  AddProcess("self", string_view("qemu\0-uuid\0"
                                 "7a1e4c9e-6c0e-4f63-9a5b-0f5a6c2f7c11\0",
                                 48));
  EXPECT_TRUE(absl::IsNotFound(FindQemu(kUuid, proc_).status()));
  AddProcess("21", string_view("qemu\0-uuid\0"
                               "7a1e4c9e-6c0e-4f63-9a5b-0f5a6c2f7c11\0-S\0",
                               51));
  const absl::StatusOr<pid_t> found = FindQemu(kUuid, proc_);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(*found, 21);
}

TEST_F(FindQemuTest, NobodyIsFoundWhereThereIsNothing) {
  EXPECT_TRUE(absl::IsNotFound(FindQemu(kUuid, proc_).status()));
}

}  // namespace
}  // namespace quire
