"""Tell whether an image that was only upscaled was asked for at a size, or at that of its input image."""

from sqlalchemy import Engine, text

from jobs.db.engine import run

# Of an archived batch the job is gone: among the lanes that the image may be of, one of its size comes first, as a
# picture that has that size already is the same when it is scaled to it.
_LANE = text("""
    SELECT l.width > 0 AS has_size
    FROM images i JOIN lanes l ON l.batch_id = i.batch_id LEFT JOIN jobs j ON j.id = i.job_id
    WHERE i.id = :image AND CASE WHEN j.id IS NULL
        THEN (l.model, l.mode, l.lora) = (i.model, i.mode, i.lora)
            AND (l.width, l.height) IN ((0, 0), (i.generated_width, i.generated_height))
        ELSE l.id = j.lane_id END
    ORDER BY l.width DESC LIMIT 1
""")


def was_upscaled_to_requested_size(engine: Engine, image: int) -> bool:
    """Return whether the row of an image had a width and height; if it hadn't, they were those of its picture."""
    return any(row.has_size for row in run(engine, _LANE, {"image": image}))
