#include "vmm/libvirt/qemu/run_directory.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

namespace fs = std::filesystem;

class RunDirectoryTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(parent_);
    fs::create_directory(parent_);
  }
  void TearDown() override { fs::remove_all(parent_); }
  std::unique_ptr<RunDirectory> Make() const {
    absl::StatusOr<std::unique_ptr<RunDirectory>> made = RunDirectory::Create(parent_);
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }

  const std::string parent_ = absl::StrCat(testing::TempDir(), "/run-directory-test");
};

TEST_F(RunDirectoryTest, GoesWithAllThatIsInIt) {
  std::string path;
  {
    const std::unique_ptr<RunDirectory> directory = Make();
    path = directory->path();
    std::ofstream(path + "/console") << "text";
    EXPECT_TRUE(fs::exists(path + "/console"));
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST_F(RunDirectoryTest, CopiesAreForEverybodyToRead) {
  const std::string own = parent_ + "/own";
  std::ofstream(own) << "a kernel";
  chmod(own.c_str(), 0400);
  const std::unique_ptr<RunDirectory> directory = Make();
  const absl::StatusOr<std::string> copy = CopyForAll(own, directory->path() + "/kernel");
  ASSERT_TRUE(copy.ok()) << copy.status();
  struct stat found;
  ASSERT_EQ(stat(copy->c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0644u);
  EXPECT_EQ(found.st_size, 8);
  ASSERT_EQ(stat(directory->path().c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0755u);
  EXPECT_FALSE(CopyForAll(parent_ + "/none", directory->path() + "/kernel").ok());
}

TEST_F(RunDirectoryTest, OneThatAKilledProcessLeftGoesWithTheNext) {
  const pid_t child = fork();
  if (child == 0) {
    Make().release();
    _exit(0);
  }
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  // What is not like one of these stays, and so does that of a process that lives.
  fs::create_directory(parent_ + "/quire-qemu.x.abc");
  const std::unique_ptr<RunDirectory> first = Make();
  const std::unique_ptr<RunDirectory> second = Make();
  EXPECT_TRUE(fs::exists(first->path()));
  size_t left = 0;
  for (const auto& entry : fs::directory_iterator(parent_)) {
    (void)entry;
    ++left;
  }
  EXPECT_EQ(left, 3u);
}

}  // namespace
}  // namespace quire
