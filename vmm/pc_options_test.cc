#include "vmm/pc_options.h"

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

constexpr ByteCount kMemory = ByteCount::MiB(512);

TEST(PcOptionsTest, DisksAreFilesOfWhichSomeAreReadOnly) {
  const std::vector<DiskOptions> disks = ParseDisks("root.img,ro,data.img").value();
  ASSERT_EQ(disks.size(), 2u);
  EXPECT_EQ(disks[0].path, "root.img");
  EXPECT_TRUE(disks[0].read_only);
  EXPECT_EQ(disks[1].path, "data.img");
  EXPECT_FALSE(disks[1].read_only);
}

TEST(PcOptionsTest, ADiskNeedsAFile) {
  for (const char* text : {"", "ro", "a.img,", "a.img,,ro"}) {
    EXPECT_EQ(ParseDisks(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(PcOptionsTest, AConsoleIsTheTerminalLinesOrAFileOfEachGuests) {
  EXPECT_EQ(ParseConsole("terminal")->kind, ConsoleTarget::Kind::kTerminal);
  EXPECT_EQ(ParseConsole("lines")->kind, ConsoleTarget::Kind::kLines);
  const ConsoleTarget file = ParseConsole("guest-%d.log").value();
  EXPECT_EQ(file.kind, ConsoleTarget::Kind::kFile);
  EXPECT_EQ(file.PathOf(3), "guest-3.log");
  EXPECT_FALSE(ParseConsole("").ok());
}

TEST(PcOptionsTest, SeveralGuestsDoNotWriteToTheSameDiskOrConsole) {
  PcOptions options{.kernel = "vmlinuz"};
  options.disks = {{.path = "a.img"}};
  EXPECT_EQ(Validate(options, kMemory, 1), absl::OkStatus());
  EXPECT_THAT(std::string(Validate(options, kMemory, 2).message()), HasSubstr("a.img,ro"));
  options.disks[0].read_only = true;
  EXPECT_EQ(Validate(options, kMemory, 2), absl::OkStatus());

  options.console = ConsoleTarget{.kind = ConsoleTarget::Kind::kFile, .path = "log"};
  EXPECT_EQ(Validate(options, kMemory, 1), absl::OkStatus());
  EXPECT_THAT(std::string(Validate(options, kMemory, 2).message()), HasSubstr("%d"));
  options.console = ConsoleTarget{.kind = ConsoleTarget::Kind::kTerminal};
  EXPECT_THAT(std::string(Validate(options, kMemory, 2).message()), HasSubstr("one guest"));
}

TEST(PcOptionsTest, ABalloonLeavesTheGuestSomething) {
  PcOptions options{.kernel = "vmlinuz"};
  options.balloon = kMemory;
  EXPECT_THAT(std::string(Validate(options, kMemory, 1).message()), HasSubstr("--balloon=512M"));
}

TEST(PcOptionsTest, AGuestHasRoomForSomeDisks) {
  PcOptions options{.kernel = "vmlinuz"};
  options.disks.resize(kMostDisks + 1, {.path = "a.img"});
  EXPECT_THAT(std::string(Validate(options, kMemory, 1).message()), HasSubstr("write fewer"));
}

TEST(PcOptionsTest, TheNewestKernelIsFoundByItsVersionNotByTheAlphabet) {
  const std::string directory = absl::StrCat(testing::TempDir(), "/boot");
  ASSERT_EQ(std::system(absl::StrCat("mkdir -p ", directory).c_str()), 0);
  EXPECT_EQ(FindKernel(directory).status().code(), absl::StatusCode::kNotFound);
  for (const char* name : {"vmlinuz-6.1.0-9-amd64", "vmlinuz-6.12.3-cloud-amd64", "vmlinuz-6.1.0-10-amd64", "zzz"}) {
    std::ofstream(absl::StrCat(directory, "/", name)) << "kernel";
  }
  EXPECT_EQ(FindKernel(directory).value(), absl::StrCat(directory, "/vmlinuz-6.12.3-cloud-amd64"));
}

TEST(PcOptionsTest, WithoutABootDirectoryThereIsNoKernel) {
  EXPECT_EQ(FindKernel("/nowhere").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace quire
