// A team of threads for one call: made when it begins, gone when it ends, so calls are re-entrant and fork is safe.
// (Making a thread costs some 20 µs; a call that takes less gets one thread.)
#pragma once
#include <atomic>
#include <pthread.h>
#include <sched.h>

class Team {
  public:
    int64_t size;
    explicit Team(int64_t size) : size(size) {}

    // Every member waits until all have come. Spins briefly, then gives its core away: on a busy machine the member
    // that is waited for may need it.
    void wait() {
        if (size == 1) return;
        int64_t round = arrived.fetch_add(1, std::memory_order_acq_rel) / size + 1;
        for (int64_t spins = 0; arrived.load(std::memory_order_acquire) < round * size; spins++) {
            if (spins > 4000) sched_yield();
#if defined(__x86_64__)
            else __builtin_ia32_pause();
#endif
        }
    }

    // Run work(member) for members 0..size-1; member 0 is the caller. Fewer threads than asked for if the system
    // has no more to give.
    template <class Work> void run(Work &work) {
        struct Member {
            Team *team;
            Work *work;
            int64_t index;
            pthread_t thread;
        };
        Member members[LIMIT];
        if (size > LIMIT) size = LIMIT;
        int64_t made = 1;
        for (; made < size; made++) {
            members[made] = {this, &work, made, {}};
            auto enter = [](void *p) -> void * {
                Member *m = (Member *)p;
                while (!m->team->open.load(std::memory_order_acquire)) sched_yield();
                (*m->work)(m->index);
                return nullptr;
            };
            if (pthread_create(&members[made].thread, nullptr, enter, &members[made])) break;
        }
        size = made;
        open.store(true, std::memory_order_release);
        work(0);
        for (int64_t i = 1; i < made; i++) pthread_join(members[i].thread, nullptr);
    }

    static constexpr int64_t LIMIT = 256;

  private:
    alignas(64) std::atomic<int64_t> arrived{0};
    alignas(64) std::atomic<bool> open{false};
};
